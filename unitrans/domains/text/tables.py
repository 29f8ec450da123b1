"""Tables as documents: CSV, JSON lines, parquet, saved data sets and those of the hub, all through ``datasets``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unitrans.data.labels import cell_classes
from unitrans.data.sources import choose_split, hub_builder, parquet_files, readable
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.reading import COMPRESSIONS, Document, suffix_of, unusable
from unitrans.errors import nearest_name
from unitrans.objectives.base import LabelKind

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_LABELS = ("label", "labels", "target")
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "pos_tags", "labels", "label")
READ_ROWS = 256  # at a time


@dataclass
class TableRows:
    """The documents of one split of a table.

    table: a datasets.Dataset or IterableDataset. label: the column (or columns) with labels, None where none is asked.
    words: whether the text column holds lists of words, and the label column a label for each. second: the column with
    the other text of pairs. multi: whether a label says yes or no to several things. separator: between classes in
    a cell of the label column.
    """

    table: Any
    split: str
    splits: list[str]
    text: str
    label: str | list[str] | None
    words: bool = False
    second: str | None = None
    multi: bool = False
    separator: str | None = None
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None
    bytes: int = 0

    @property
    def files(self) -> int:
        """How many parts can be read one by one."""
        return int(getattr(self.table, "num_shards", 1)) if self.is_stream else 1

    @property
    def is_stream(self) -> bool:
        """Whether the table is read from front to back only."""
        return not hasattr(self.table, "__len__")

    def size(self) -> int:
        """Bytes of the files, 0 if unknown."""
        return self.bytes

    def of_file(self, file: int) -> Iterator[Document]:
        """The usable rows of one part, in order; others go to ``skipped``."""
        part = self.table.shard(self.files, file) if self.is_stream else self.table
        row = 0
        for batch in part.iter(batch_size=READ_ROWS):
            count = len(batch[self.text])
            seconds = batch[self.second] if self.second else [None] * count
            for text, second, label in zip(
                batch[self.text], seconds, self._labels(batch, count), strict=True
            ):
                name = f"{self.split}#{file}.{row}" if self.is_stream else f"{self.split}#{row}"
                row += 1
                document, reason = self._document(name, text, second, label)
                if document is None:
                    self.skipped.setdefault(name, reason)
                else:
                    yield document

    def _labels(self, batch: Mapping[str, Any], count: int) -> Sequence[Any]:
        """The label of every row; of several columns {name: value}, None where all are empty."""
        if self.label is None:
            return [None] * count
        if isinstance(self.label, str):
            cells = batch[self.label]
            return cells if self.separator is None else [cell_classes(cell, self.separator) for cell in cells]
        rows = zip(*(batch[name] for name in self.label), strict=True)
        return [None if all(map(_is_empty, row)) else dict(zip(self.label, row, strict=True)) for row in rows]

    def _document(self, name: str, text: Any, second: Any, label: Any) -> tuple[Document | None, str]:
        if self.words:
            if not text or label is None or len(text) != len(label):
                return None, "it has no words, or not one label for each"
            return Document(name, " ".join(text), " ".join(text), list(label), list(text)), ""
        texts = [text] if self.second is None else [text, second]
        for one in texts:
            if not isinstance(one, str) or not one.strip():
                return None, "it has no text" if self.second is None else "one of its two texts is missing"
            reason = unusable(one)
            if reason is not None:
                return None, reason
        if self.label and _is_empty(label):
            return None, "it has no label"
        texts = [one.strip() for one in texts]
        behind = texts[1] if self.second else None
        return Document(name, texts[0], "\n".join(texts), label, second=behind), ""


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def table_files(root: Path, files: Sequence[Path], where: str) -> tuple[str, dict[str, list[str]], list[str]]:
    """Kind, split -> files, and sentences, for a table file or the table files of one kind below a folder."""
    tables = [path for path in files if suffix_of(path) in KINDS]
    kinds = {KINDS[suffix_of(path)] for path in tables}
    if len(kinds) > 1:
        raise ValueError(
            f"{where} holds tables of several kinds ({', '.join(sorted(kinds))}): name one file or folder"
        )
    kind = kinds.pop()
    if any(COMPRESSIONS.get(path.suffix.lower()) == "zstd" for path in tables):
        import importlib.util

        if importlib.util.find_spec("zstandard") is None:
            raise ValueError(f"{where}: tables in .zst need the package zstandard: pip install zstandard")
    if kind == "parquet":
        splits, unused = parquet_files(root)
        return (
            kind,
            splits,
            [f"ignored {len(unused)} parquet files that belong to no split"] if unused else [],
        )
    return kind, {"train": [str(path) for path in tables]}, []


def open_table(
    root: Path, files: Sequence[Path], data: DataConfig, kind: LabelKind | None, key: str
) -> TableRows:
    """The rows of a table file, or of the table files below a folder."""
    import datasets

    where = f"{key}: {str(root)!r}"
    form, splits, notes = table_files(root, files, where)
    options: dict[str, Any] = (
        {"sep": "\t"} if form == "csv" and suffix_of(Path(splits["train"][0])) == ".tsv" else {}
    )
    with readable(where):
        builder = datasets.load_dataset_builder(form, data_files=splits, **options)
    rows = _of_builder(builder, data, kind, where)
    rows.notes += notes
    rows.bytes = sum(Path(name).stat().st_size for name in splits[rows.split])
    return rows


def open_saved(root: Path, data: DataConfig, kind: LabelKind | None, key: str) -> TableRows:
    """The rows of a data set that ``datasets`` has saved."""
    import datasets

    where = f"{key}: {str(root)!r}"
    with readable(where):
        saved = datasets.load_from_disk(str(root))
    tables = dict(saved) if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    split = choose_split(list(tables), data.split, where)
    return _rows(tables[split], split, list(tables), data, kind, where)


def open_hub(
    path: str, data: DataConfig, kind: LabelKind | None, key: str, embedded: Sequence[str]
) -> TableRows:
    """The rows of a data set of the hub."""
    builder, note = hub_builder(path, data.revision, key, embedded)
    rows = _of_builder(builder, data, kind, f"{key}: {path!r}")
    rows.notes.insert(0, note)
    return rows


def _of_builder(builder: Any, data: DataConfig, kind: LabelKind | None, where: str) -> TableRows:
    import datasets

    datasets.disable_progress_bars()
    with readable(where):
        if data.streaming:
            tables: Any = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            tables = {str(name): None for name in builder.info.splits}
    names = [str(name) for name in tables]
    split = choose_split(names, data.split, where)
    with readable(where):
        table = tables[split] if data.streaming else builder.as_dataset(split=split)
    return _rows(table, split, names, data, kind, where)


def _rows(
    table: Any, split: str, splits: list[str], data: DataConfig, kind: LabelKind | None, where: str
) -> TableRows:
    features = table.features
    if features is None:  # a stream whose columns are known only from its rows
        with readable(where):
            features = table._resolve_features().features
    words = kind == "token"
    if data.second_column is not None and kind not in ("class", "value"):
        raise ValueError(
            "data.second_column: pairs of texts are for labels of the pair (objectives classification and regression)"
        )
    text = _text_column(features, data.text_column, words, where, data.second_column)
    second = data.second_column
    if second is not None:
        _check_column(features, second, "data.second_column", where)
        if second == text:
            raise ValueError(f"data.second_column={second!r} is the first text: name another column")
    asked = data.label_column
    label: str | list[str] | None = None
    if kind and isinstance(asked, list):
        if words:
            raise ValueError(f"data.label_column: expected one column of lists, got {asked}")
        for name in asked:
            _check_column(features, name, "data.label_column", where)
        label = asked
    elif kind:
        assert not isinstance(asked, list)
        label = _label_column(features, asked, _TAGS if words else _LABELS, where)
    labels = [label] if isinstance(label, str) else label or []
    table = table.select_columns(list(dict.fromkeys([text, *([second] if second else []), *labels])))
    several = not isinstance(label, str) or _is_list(features[label]) or data.label_separator is not None
    names = _class_names(features[label]) if isinstance(label, str) else None
    multi = kind == "class" and several
    if data.label_separator is not None and (not multi or _is_list(features[labels[0]])):
        raise ValueError("data.label_separator is for a column of classes in text (objective classification)")
    separator = data.label_separator
    return TableRows(table, split, splits, text, label, words, second, multi, separator, label_names=names)


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({getattr(feature, 'dtype', type(feature).__name__)})" for name, feature in features.items()
    )


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_list(feature: Any) -> bool:
    return hasattr(feature, "feature") or isinstance(feature, list)


def _check_column(features: Mapping[str, Any], name: str, key: str, where: str) -> None:
    """ValueError where a table has no such column."""
    if name not in features:
        raise ValueError(
            f"{key}={name!r} is not a column of {where}: expected one of {_listed(features)}"
            f"{nearest_name(name, features)}"
        )


def _text_column(
    features: Mapping[str, Any], asked: str | None, words: bool, where: str, other: str | None
) -> str:
    if asked is not None:
        _check_column(features, asked, "data.text_column", where)
        return asked
    for name in _WORDS if words else ("text",):
        if name in features:
            return name
    found = [] if words else [name for name, feature in features.items() if _is_text(feature)]
    found = [name for name in found if name != other]
    if len(found) == 1:
        return found[0]
    what = "a column of lists of words (tokens)" if words else "one column of text"
    raise ValueError(
        f"{where}: expected {what}, got {_listed(features) or 'no column at all'}: choose one with data.text_column"
    )


def _label_column(features: Mapping[str, Any], asked: str | None, known: Sequence[str], where: str) -> str:
    if asked is not None:
        _check_column(features, asked, "data.label_column", where)
        return asked
    for name in known:
        if name in features:
            return name
    raise ValueError(
        f"{where}: expected a column with labels ({', '.join(known)}), got {_listed(features)}: choose one with "
        "data.label_column"
    )


def _class_names(feature: Any) -> list[str] | None:
    """The names of classes that a data set declares."""
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    return list(names) if names else None
