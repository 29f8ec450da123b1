"""Tables as documents: files of rows, saved data sets and those of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unitrans.data.columns import Column
from unitrans.data.files import suffix_of
from unitrans.data.labels import cell_classes, check_separator, label_columns, says_nothing, target_columns
from unitrans.data.sources import DataSet, choose_split, hub_builder, parquet_builder, readable
from unitrans.data.table import KINDS, Record, Table, layout_of, open_table
from unitrans.domains.text.config import DataConfig
from unitrans.domains.text.reading import Document, Documents, unusable
from unitrans.errors import nearest_name
from unitrans.objectives.base import LabelKind

_LABELS = ("label", "labels", "target")
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "pos_tags", "labels", "label")


@dataclass
class TableRows(Documents):
    """The documents of one split of a table.

    label: the column (or columns) with labels, None where none is asked. words: whether the text column holds lists of
    words, and the label column a label for each. second: the column with the other text of pairs. multi: whether a
    label says yes or no to several things. separator: between classes in a cell of the label column. by_part: whether
    rows are read and numbered part by part, as a stream is. columns: how labels are read; {}: not known yet.
    """

    table: Table
    split: str
    splits: list[str]
    text: str
    label: str | list[str] | None
    words: bool = False
    second: str | None = None
    multi: bool = False
    separator: str | None = None
    by_part: bool = False
    missing: list[str] | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None

    @property
    def files(self) -> int:
        """How many parts can be read one by one."""
        return self.table.parts if self.by_part else 1

    def size(self) -> int:
        """Bytes of the files, 0 if unknown."""
        return self.table.size

    def of_file(self, file: int) -> Iterator[Document]:
        """The usable rows of one part, in order; others go to ``skipped``."""
        columns = self.label_columns() if self.label is not None else {}
        for number, row in enumerate(self.table.rows(file if self.by_part else None)):
            name = f"{self.split}#{file}.{number}" if self.by_part else f"{self.split}#{number}"
            if isinstance(row, str):
                self.skipped.setdefault(name, row)
                continue
            second = row.get(self.second) if self.second else None
            document, reason = self._document(name, row.get(self.text), second, self._label(row), columns)
            if document is None:
                self.skipped.setdefault(name, reason)
            else:
                yield document

    def label_columns(self) -> dict[str, Column]:
        """How the cells with labels are read, by all rows of the table."""
        if not self.columns:
            found = [self._label(row) for row in self.table.rows() if not isinstance(row, str)]
            self.columns = label_columns(
                found, self.label if isinstance(self.label, str) else None, self.missing
            )
        return self.columns

    def _label(self, row: Record) -> Any:
        """The cells with the label of a row."""
        if self.label is None:
            return None
        if isinstance(self.label, str):
            cell = row.get(self.label)
            return cell if self.separator is None else cell_classes(cell, self.separator)
        return {name: row.get(name) for name in self.label}

    def _document(
        self, name: str, text: Any, second: Any, label: Any, columns: Mapping[str, Column]
    ) -> tuple[Document | None, str]:
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
        if self.label and says_nothing(label, columns):
            return None, "it has no label"
        texts = [one.strip() for one in texts]
        behind = texts[1] if self.second else None
        return Document(name, texts[0], "\n".join(texts), label, second=behind), ""


def open_files(
    root: Path, files: Sequence[Path], data: DataConfig, kind: LabelKind | None, key: str
) -> TableRows:
    """The rows of a table file, or of the table files of one kind below a folder."""
    where = f"{key}: {str(root)!r}"
    tables = [path for path in files if suffix_of(path) in KINDS]
    kinds = {KINDS[suffix_of(path)] for path in tables}
    if len(kinds) > 1:
        raise ValueError(
            f"{where} holds tables of several kinds ({', '.join(sorted(kinds))}): name one file or folder"
        )
    if kinds == {"parquet"}:
        builder, notes = parquet_builder(root, str(root), where)
        rows = _of_builder(builder, data, kind, where)
        rows.notes += notes
        rows.table.size = sum(path.stat().st_size for path in tables)
        return rows
    known = [*_WORDS, *_TAGS, *_LABELS, "text", data.text_column, data.second_column]
    table = open_table(tables or list(files), where, layout_of(data, known))
    split = choose_split(["train"], data.split, where)
    return _rows(table, split, ["train"], data, kind, where, data.streaming)


def open_saved(root: Path, data: DataConfig, kind: LabelKind | None, key: str) -> TableRows:
    """The rows of a data set that ``datasets`` has saved."""
    import datasets

    where = f"{key}: {str(root)!r}"
    with readable(where):
        saved = datasets.load_from_disk(str(root))
    tables = dict(saved) if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    split = choose_split(list(tables), data.split, where)
    return _rows(DataSet(tables[split], where), split, list(tables), data, kind, where)


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
    return _rows(DataSet(table, where), split, names, data, kind, where, data.streaming)


def _rows(
    table: Table,
    split: str,
    splits: list[str],
    data: DataConfig,
    kind: LabelKind | None,
    where: str,
    by_part: bool = False,
) -> TableRows:
    kinds = table.kinds()
    words = kind == "token"
    if data.second_column is not None and kind not in ("class", "value"):
        raise ValueError(
            "data.second_column: pairs of texts are for labels of the pair (objectives classification and regression)"
        )
    text = _text_column(kinds, data.text_column, words, where, data.second_column)
    second = data.second_column
    if second is not None:
        _check_column(kinds, second, "data.second_column", where)
        if second == text:
            raise ValueError(f"data.second_column={second!r} is the first text: name another column")
    asked = target_columns(data.label_column, kinds)
    check_separator(asked, data.label_separator)
    label: str | list[str] | None = None
    if kind and isinstance(asked, list):
        if words:
            raise ValueError(f"data.label_column: expected one column of lists, got {asked}")
        for name in asked:
            _check_column(kinds, name, "data.label_column", where)
        label = asked
    elif kind:
        assert not isinstance(asked, list)
        label = _label_column(kinds, asked, _TAGS if words else _LABELS, where)
    labels = [label] if isinstance(label, str) else label or []
    names = table.declared(label) if isinstance(label, str) else None
    table = table.select(list(dict.fromkeys([text, *([second] if second else []), *labels])))
    lists = isinstance(label, str) and kinds[label] == "list"
    multi = kind == "class" and (not isinstance(label, str) or lists or data.label_separator is not None)
    if data.label_separator is not None and (not multi or lists):
        raise ValueError("data.label_separator is for a column of classes in text (objective classification)")
    return TableRows(
        table, split, splits, text, label, words, second, multi, data.label_separator, by_part, data.missing,
        label_names=names,
    )  # fmt: skip


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _check_column(kinds: Mapping[str, str], name: str, key: str, where: str) -> None:
    """ValueError where a table has no such column."""
    if name not in kinds:
        raise ValueError(
            f"{key}={name!r} is not a column of {where}: expected one of {_listed(kinds)}"
            f"{nearest_name(name, kinds)}"
        )


def _text_column(
    kinds: Mapping[str, str], asked: str | None, words: bool, where: str, other: str | None
) -> str:
    if asked is not None:
        _check_column(kinds, asked, "data.text_column", where)
        return asked
    for name in _WORDS if words else ("text",):
        if name in kinds:
            return name
    found = [] if words else [name for name, kind in kinds.items() if kind == "text"]
    found = [name for name in found if name != other]
    if len(found) == 1:
        return found[0]
    what = "a column of lists of words (tokens)" if words else "one column of text"
    raise ValueError(
        f"{where}: expected {what}, got {_listed(kinds) or 'no column at all'}: choose one with data.text_column"
    )


def _label_column(kinds: Mapping[str, str], asked: str | None, known: Sequence[str], where: str) -> str:
    if asked is not None:
        _check_column(kinds, asked, "data.label_column", where)
        return asked
    for name in known:
        if name in kinds:
            return name
    raise ValueError(
        f"{where}: expected a column with labels ({', '.join(known)}), got {_listed(kinds)}: choose one with "
        "data.label_column"
    )
