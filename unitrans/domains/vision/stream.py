"""Images read from front to back: parquet files and hub data sets that are not downloaded first.

The order is that of ``unitrans.data.streams``. A row is held out when the hash of its id says so, as in
``unitrans.data.splits``; those rows are left out of the stream wherever they come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unitrans.data import sources
from unitrans.data.splits import hash_fraction, units_of
from unitrans.data.streams import Endless, from_some_files
from unitrans.domains.base import Sample
from unitrans.domains.vision import datasets
from unitrans.domains.vision.config import DataConfig
from unitrans.domains.vision.labels import class_name, label_column
from unitrans.domains.vision.reading import BrokenImageError
from unitrans.domains.vision.source import EMBEDDED, Reader, VisionSource
from unitrans.objectives.base import Labels

Row = tuple[str, Any, Any]  # id, record, name of the class
READ_ROWS = 16  # at a time, from the table that is being read
NAMES_LOOKED_AT = 1000  # to see whether names repeat


class Rows:
    """The rows of a streamed split, file by file.

    where: what it is called in messages. files: how many there are. size: how many rows, None if unknown. label_column,
    class_names: where the classes are and what they are called, None where none were asked for.
    """

    def __init__(
        self,
        stream: Any,
        column: str,
        split: str,
        size: int | None,
        where: str,
        label_column: str | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.stream, self.column, self.split, self.size, self.where = stream, column, split, size, where
        self.label_column, self.class_names = label_column, class_names
        self.files = int(stream.num_shards)
        names = [datasets.short_name(path) for path in self._first_paths()]
        self.numbered = len(set(names)) < len(names)

    def _first_paths(self) -> list[str]:
        paths = []
        for count, (record, _) in enumerate(self._records(0)):
            if count == NAMES_LOOKED_AT:
                break
            if isinstance(record, dict) and record.get("path"):
                paths.append(record["path"])
        return paths

    def _records(self, file: int) -> Iterator[tuple[Any, Any]]:
        """(record, class) of one file. SourceError when it breaks off, after `datasets` and `huggingface_hub` have
        tried again for a while."""
        # Not iter(stream): inside a loader worker that gives each worker a part of the files.
        batches, row = self.stream.shard(self.files, file).iter(batch_size=READ_ROWS), 0
        while True:
            with sources.unbroken(
                f"{self.where} broke off after row {row:,} of file {file + 1} of {self.files}"
            ):
                batch = next(batches, None)
            if batch is None:
                return
            records = batch[self.column]
            row += len(records)
            labels = [None] * len(records) if self.label_column is None else batch[self.label_column]
            yield from zip(records, (class_name(label, self.class_names) for label in labels), strict=True)

    def of_file(self, file: int) -> Iterator[Row]:
        """(id, record, class) of one file. The id is the name of the record (``NAME#FILE.ROW`` if names repeat at the
        front of the stream), or ``SPLIT#FILE.ROW`` where it has none."""
        for row, (record, label) in enumerate(self._records(file)):
            name = datasets.short_name(record.get("path")) if isinstance(record, dict) else None
            place = f"#{file}.{row}"
            sample_id = f"{self.split}{place}" if name is None else name + place * self.numbered
            yield sample_id, record, label


class StreamedImages(Endless[Row], VisionSource):
    """The training images of a stream; see ``unitrans.domains.base.Source`` about ``in_order``."""

    in_order = True

    def __init__(self, rows: Rows, data: DataConfig, folder: Path, seed: int, fraction: float) -> None:
        Endless.__init__(self, data.path, rows.files, seed, data.shuffle_buffer)
        reader = datasets.RecordReader([], [], folder, data.channels, data.value_range, data.max_pixels)
        VisionSource.__init__(self, reader, [], data)
        self.rows, self.folder, self.fraction = rows, folder, fraction

    def __len__(self) -> int:
        size = self.data.stream_samples or self.rows.size
        assert size is not None
        return max(1, round(size * (1 - self.fraction)))

    def held_out(self, row: Row) -> bool:
        """Whether a row is never trained on."""
        return self.fraction > 0 and hash_fraction(units_of([row[0]], self.data.group)[0]) < self.fraction

    def training_rows(self, file: int) -> Iterator[Row]:
        """The rows of one file that are trained on."""
        return (row for row in self.rows.of_file(file) if not self.held_out(row))

    def load(self, index: int) -> Sample | None:
        """Reads on to place ``index`` of the endless sequence and decodes it."""
        epoch, (name, record, label) = self.seek(index)
        try:
            data = self.data
            image = datasets.read_record(
                record, name, self.folder, data.channels, data.value_range, data.max_pixels
            )
        except BrokenImageError as error:
            self.skip(name, str(error))
            return None
        sample = {"id": name, "image": image, "epoch": epoch}
        if self.labels is None:
            return sample
        if label is None:
            self.skip(name, "the table has no class in this row")
            return None
        return sample | {"label": self.labels.names.index(label)}

    def name(self, index: int) -> str:
        """The id of the sample loaded last."""
        return self.seek(index)[1][0]

    def readable(self, limit: int | None = None) -> Iterator[Sample]:
        """The readable ones among the first ``limit`` rows of the first epoch."""
        for count, (name, record, label) in enumerate(self.epoch(0)):
            if count == limit:
                return
            data = self.data
            reader = datasets.RecordReader(
                [name], [record], self.folder, data.channels, data.value_range, data.max_pixels, [label]
            )
            source = VisionSource(reader, [0], self.data)
            if self.labels is not None:
                source.set_labels(self.labels.names, "data.path")
            sample = source.load(0)
            if sample is not None:
                yield sample

    def kept_validation(self) -> Reader:
        """The first held-out rows of some files, evenly spaced, data.stream_validation_samples in all."""
        return _some_rows(self.rows, self.data, self.folder, self.held_out)


def _some_rows(
    rows: Rows, data: DataConfig, folder: Path, wanted: Callable[[Row], bool]
) -> datasets.RecordReader:
    kept = from_some_files(
        rows.files, data.stream_validation_samples, lambda file: filter(wanted, rows.of_file(file))
    )
    ids, records, labels = (list(part) for part in zip(*kept, strict=True)) if kept else ([], [], [])
    return datasets.RecordReader(
        ids, records, folder, data.channels, data.value_range, data.max_pixels, labels, rows.class_names
    )


def _open_rows(
    builder: Any, data: DataConfig, split: str | None, where: str, labels: bool
) -> tuple[Rows, list[str]]:
    """The rows of a split, and the names of all splits."""
    if hasattr(builder.config, "decode_num_threads"):
        builder.config.decode_num_threads = 0  # else every image is decoded, those that are skipped too
    sources.limit_retries()
    with sources.readable(where):
        streams = builder.as_streaming_dataset()
    names = [str(name) for name in streams]
    split = sources.choose_split(names, split, where)
    with sources.readable(where):
        stream = streams[split]
    column = datasets.image_column(stream.features or {}, data.image_column, where)
    classes: tuple[str | None, list[str] | None] = (None, None)
    if labels:
        if not isinstance(data.label_column, str | None) or data.label_separator is not None:
            raise ValueError(
                "data.streaming: a stream has one class for each image: leave data.streaming out for several labels"
            )
        classes = label_column(stream.features or {}, data.label_column, where)
        if classes[1] is None:
            raise ValueError(
                f"{where}: data.label_column={classes[0]} does not declare its classes, and a stream is not read to "
                "find them: use a column of type ClassLabel, or leave data.streaming out"
            )
    with sources.readable(where):
        stream = datasets.undecoded(stream, column, *[name for name in classes[:1] if name is not None])
        return Rows(stream, column, split, _size(builder, split), where, *classes), names


def _size(builder: Any, split: str) -> int | None:
    """Rows of a split, as the data set or its parquet files say."""
    info = (builder.info.splits or {}).get(split)
    if info is not None and info.num_examples:
        return int(info.num_examples)
    files: Sequence[str] = (builder.config.data_files or {}).get(split, ())
    if not files or not all(str(file).lower().endswith(".parquet") for file in files):
        return None
    import fsspec
    import pyarrow.parquet

    total = 0
    for name in files:
        with fsspec.open(str(name), "rb") as file:
            total += pyarrow.parquet.read_metadata(file).num_rows
    return total


def open_stream(
    data: DataConfig, seed: int, labels: bool
) -> tuple[StreamedImages, VisionSource | None, str | None]:
    """The training stream; the held-out images when they come from the same data set; and the path that
    data.validation names otherwise. ValueError in one sentence for what cannot be streamed."""
    root = Path(os.path.expanduser(data.path))
    where = f"data.path: {data.path!r}"
    if data.path in EMBEDDED:
        raise ValueError(f"{where} is embedded and in memory at once: leave data.streaming out")
    builder, notes = _builder(root, data, where)
    rows, splits = _open_rows(builder, data, data.split, where, labels)
    if rows.size is None and data.stream_samples is None:
        raise ValueError(f"{where} does not say how many rows it has: give the number as data.stream_samples")
    folder = root if root.is_dir() else root.parent
    fraction = data.validation if isinstance(data.validation, float) else 0.0
    train = StreamedImages(rows, data, folder, seed, fraction)
    if rows.class_names is not None:
        train.labels = Labels("class", tuple(rows.class_names))
    train.notes += [
        *notes,
        f"streamed from {rows.files:,} files through a buffer of {data.shuffle_buffer:,}; about {len(train):,} "
        "training samples an epoch",
    ]
    other = None if isinstance(data.validation, float) or data.validation == "none" else data.validation
    reader: Reader | None = None
    if fraction:
        with sources.readable(where):
            reader = train.kept_validation()
        if not reader.ids:
            raise ValueError(
                f"data.validation={fraction:g} holds out none of the rows of {data.path!r} that were looked at: "
                "give a larger fraction or another place"
            )
    elif other in splits and not Path(os.path.expanduser(other)).exists():
        if other == rows.split:
            raise ValueError(f"data.validation={other} is the split that is trained on: name another")
        held_out, _ = _open_rows(builder, data, other, f"data.validation: {other!r}", labels)
        with sources.readable(where):
            reader, other = _some_rows(held_out, data, folder, lambda row: True), None
    validation = None if reader is None else VisionSource(reader, range(len(reader.ids)), data)
    if validation is not None and len(validation) == data.stream_validation_samples:
        validation.notes.append(
            f"{len(validation):,} held-out images are kept (data.stream_validation_samples)"
        )
    return train, validation, other


def _builder(root: Path, data: DataConfig, where: str) -> tuple[Any, list[str]]:
    if not root.exists():
        builder, note = sources.hub_builder(data.path, data.revision, "data.path", EMBEDDED)
        return builder, [note]
    parquet = root.suffix.lower() == ".parquet" if root.is_file() else next(root.rglob("*.parquet"), None)
    if not parquet or (root.is_dir() and sources.is_table(root)):
        raise ValueError(
            f"{where} lies on this machine and is read in place: data.streaming is for parquet files and the hub; "
            "leave it out"
        )
    return sources.parquet_builder(root, data.path, where)
