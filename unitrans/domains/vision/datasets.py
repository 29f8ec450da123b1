"""Images in tables: data sets saved on disk, parquet files and data sets of the Hugging Face hub.

A record is what a table holds for one image: {"bytes": ..., "path": ...}, either of which may be None, or bytes.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unitrans.data.columns import Column
from unitrans.data.labels import cell_classes, check_known, check_separator, target_columns
from unitrans.data.sources import (
    choose_split,
    hub_builder,
    inner_feature,
    is_table,
    parquet_builder,
    readable,
    unbroken,
)
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.labels import class_name, label_column
from unitrans.domains.vision.reading import BrokenImageError, OutOfRangeError, ValueRange, read_image
from unitrans.errors import nearest_name

_SUFFIX_OF = ((b"\x93NUMPY", ".npy"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"))


@dataclass
class TableReader:
    """Images in ``column`` of an Arrow table, read by row.

    table: a datasets.Dataset whose image column is not decoded. folder: where relative paths in the table start.
    split: the one this is. splits: the names of all splits of the data set. labels, class_names: as in ``Reader``.
    """

    table: Any
    column: str
    folder: Path
    split: str
    splits: list[str]
    channels: int
    value_range: ValueRange
    max_pixels: int
    ids: list[str] = field(default_factory=list)
    labels: list[Any] | None = None
    class_names: list[str] | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)

    def read(self, index: int) -> torch.Tensor:
        """The image in row ``index``; see ``read_record``."""
        record = self.table[index][self.column]
        return read_record(
            record, self.ids[index], self.folder, self.channels, self.value_range, self.max_pixels
        )


@dataclass
class RecordReader:
    """Images whose records are in memory."""

    ids: list[str]
    records: list[Any]
    folder: Path
    channels: int
    value_range: ValueRange
    max_pixels: int
    labels: list[Any] | None = None
    class_names: list[str] | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)

    def read(self, index: int) -> torch.Tensor:
        """Image ``index``; see ``read_record``."""
        record, name = self.records[index], self.ids[index]
        return read_record(record, name, self.folder, self.channels, self.value_range, self.max_pixels)


def read_record(
    record: Any, name: str, folder: Path, channels: int, value_range: ValueRange, max_pixels: int
) -> torch.Tensor:
    """The image of a record as float32 [channels, H, W] in [0, 1], as ``read_image`` reads files.

    A record without bytes names a file: absolute, below ``folder``, or a URL. BrokenImageError as in ``read_image``.
    """
    if isinstance(record, Mapping):
        content, path = record.get("bytes"), record.get("path")
    else:
        content, path = record, None
    if content is None and not path:
        raise BrokenImageError("the table has no image in this row")
    if content is None:
        assert path is not None
        if "://" not in path:
            return read_image(folder / path, channels, value_range, max_pixels)
        import fsspec

        with unbroken(f"{name} cannot be read"):
            try:
                with fsspec.open(path, "rb") as file:
                    content = file.read()
            except FileNotFoundError:
                content = None
        if content is None:
            raise BrokenImageError(f"there is no file {path}")
    # Decoders choose by the suffix and want a file; in /dev/shm it never reaches a disk.
    known = [suffix for start, suffix in _SUFFIX_OF if content.startswith(start)]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(suffix=known[0] if known else ".img", dir=memory) as file:
        file.write(content)
        file.flush()
        try:
            return read_image(Path(file.name), channels, value_range, max_pixels)
        except OutOfRangeError as error:  # name the row, not our file
            raise OutOfRangeError(str(error).replace(file.name, name)) from None


# ---- names and columns ------------------------------------------------------------------------------------------


def short_name(path: str | None) -> str | None:
    """What a record's path contributes to the id: a relative path as it is, of an absolute path or a URL the folder
    and the file name, so that the id does not depend on the machine."""
    if not path:
        return None
    if "://" in path or path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path):
        return "/".join(re.split(r"[\\/]+", path.split("::")[0])[-2:])
    return path


def sample_ids(paths: Iterable[str | None], split: str) -> list[str]:
    """One id per row: the name of its file, with ``#ROW`` behind a name that is there more than once; ``SPLIT#ROW``
    for a row without a name."""
    names = [short_name(path) for path in paths]
    count = Counter(names)
    return [
        f"{split}#{row}" if name is None else name if count[name] == 1 else f"{name}#{row}"
        for row, name in enumerate(names)
    ]


def image_column(features: Mapping[str, Any], asked: str | None, where: str) -> str:
    """The column that holds the images: ``asked``, else the only one of type Image, else the only one of {bytes, path},
    else the only one of bytes. ValueError names the columns when there is none or a choice."""
    import datasets

    def is_struct(feature: Any) -> bool:
        return isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}

    def is_bytes(feature: Any) -> bool:
        return getattr(feature, "dtype", None) in ("binary", "large_binary")

    def is_image(feature: Any) -> bool:
        return isinstance(feature, datasets.Image)

    kinds = (is_image, is_struct, is_bytes)
    listed = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    if asked is not None:
        if asked not in features:
            raise ValueError(
                f"data.image_column={asked!r} is not a column of {where}: expected one of {listed}"
                f"{nearest_name(asked, features)}"
            )
        if not any(is_kind(features[asked]) for is_kind in kinds):
            raise ValueError(
                f"data.image_column={asked!r} holds no images but {_kind(features[asked])}: expected a column of type "
                f"Image, of {{bytes, path}} or of bytes; {where} has {listed}"
            )
        return asked
    for is_kind in kinds:
        found = [name for name, feature in features.items() if is_kind(feature)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{where} has several columns of images ({', '.join(found)}): choose one with "
                f"data.image_column={found[0]}"
            )
    raise ValueError(
        f"{where} has no column of images: expected one of type Image, of {{bytes, path}} or of bytes, got "
        f"{listed or 'no column at all'}"
    )


def _kind(feature: Any) -> str:
    if isinstance(feature, dict):
        return "{" + ", ".join(feature) + "}"
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def undecoded(table: Any, column: str, *others: str) -> Any:
    """The table (or stream) with ``column``, as records, and the others alone."""
    import datasets

    table = table.select_columns([column, *others]).with_format(None)
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    return table


# ---- finding and opening ----------------------------------------------------------------------------------------


def open_table(
    root: Path, path: str, data: DataConfig, key: str, labels: bool
) -> tuple[TableReader, list[str]]:
    """The reader of a saved data set, a parquet file, or a folder of parquet files, and sentences to show."""
    where = f"{key}: {path!r}"
    if root.is_dir() and is_table(root):
        import datasets

        if next(root.rglob("*.arrow"), None) is None:
            raise ValueError(f"{where} has no rows")
        with readable(where):
            saved = datasets.load_from_disk(str(root))
        tables = dict(saved) if isinstance(saved, dict) else {str(saved.split or "train"): saved}
        split = choose_split(list(tables), data.split, where)
        return _reader(tables[split], split, list(tables), root, data, where, labels), []
    builder, notes = parquet_builder(root, path, where)
    return _prepare(builder, data, where, root if root.is_dir() else root.parent, labels), notes


def open_hub(
    path: str, data: DataConfig, key: str, embedded: Iterable[str], labels: bool
) -> tuple[TableReader, list[str]]:
    """The reader of a data set of the hub, downloaded into the cache of ``datasets``, and sentences to show."""
    builder, note = hub_builder(path, data.revision, key, embedded)
    return _prepare(builder, data, f"{key}: {path!r}", Path(), labels), [note]


def _prepare(builder: Any, data: DataConfig, where: str, folder: Path, labels: bool) -> TableReader:
    with readable(where):
        builder.download_and_prepare()
        splits = [str(name) for name in builder.info.splits]
    split = choose_split(splits, data.split, where)
    with readable(where):
        table = builder.as_dataset(split=split)
    return _reader(table, split, splits, folder, data, where, labels)


def _reader(
    table: Any, split: str, splits: list[str], folder: Path, data: DataConfig, where: str, labels: bool
) -> TableReader:
    """Reads the names of all rows, and the labels if they are wanted; nothing else is read yet."""
    if not len(table):
        raise ValueError(f"{where} has no rows")
    column = image_column(table.features, data.image_column, where)
    values, names = _labels(table, data, where) if labels else (None, None)
    table = undecoded(table, column)
    reader = TableReader(
        table,
        column,
        folder,
        split,
        splits,
        data.channels,
        data.value_range,
        data.max_pixels,
        [],
        values,
        names,
    )
    reader.ids = sample_ids(_paths(table, column), split)
    return reader


def _labels(table: Any, data: DataConfig, where: str) -> tuple[list[Any], list[str] | None]:
    """The class of every row, by name where the table declares names, and those names; of several columns {column:
    value}, of a column of lists the classes that hold."""
    data = data.model_copy(update={"label_column": target_columns(data.label_column, table.features)})
    check_separator(data.label_column, data.label_separator)
    if isinstance(data.label_column, list):
        check_known(data.label_column, list(table.features), "data.label_column", where)
        rows = zip(*(table.with_format(None)[name] for name in data.label_column), strict=True)
        return [dict(zip(data.label_column, row, strict=True)) for row in rows], data.label_column
    if (
        data.label_column in table.features
        and (inner := inner_feature(table.features[data.label_column])) is not None
    ):
        names = getattr(inner, "names", None)
        lists = table.with_format(None)[data.label_column]
        return [None if one is None else [class_name(v, names) for v in one] for one in lists], names
    if data.label_separator is not None:
        column, _ = label_column(table.features, data.label_column, where)
        return [cell_classes(cell, data.label_separator) for cell in table.with_format(None)[column]], None
    column, names = label_column(table.features, data.label_column, where)
    values = list(table.with_format(None)[column])
    return [class_name(value, names) for value in values], names


def _paths(table: Any, column: str) -> Iterator[str | None]:
    """The paths in a column of records; of columns in memory maps only these are read."""
    import pyarrow
    import pyarrow.compute

    for batch in table.with_format("arrow").iter(batch_size=10_000):
        records = batch.column(column)
        if pyarrow.types.is_struct(records.type) and records.type.get_field_index("path") >= 0:
            yield from pyarrow.compute.struct_field(records, "path").to_pylist()
        else:
            yield from [None] * len(records)
