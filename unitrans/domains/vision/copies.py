"""Images that are in a data set under several names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unitrans.data.copies import HEAD, copied_files, copies, digest
from unitrans.domains.vision.datasets import RecordReader, TableReader
from unitrans.domains.vision.listing import ListedReader
from unitrans.domains.vision.source import ArrayReader, FolderReader, Reader

_ROWS = 1000  # of a table at a time


def copied_images(reader: Reader) -> dict[int, str]:
    """Index -> content, of all images whose stored bytes another one has too."""
    if isinstance(reader, FolderReader | ListedReader):
        return copied_files(files_of(reader))
    if isinstance(reader, TableReader):
        return _copied_rows(reader)
    if isinstance(reader, ArrayReader):
        images = reader.images
        return copies(
            len(images), [lambda asked: (digest(images[index].numpy().tobytes()) for index in asked)]
        )
    assert isinstance(reader, RecordReader), "every reader that is split by a fraction is above"
    return {}


def files_of(reader: ListedReader | FolderReader) -> list[Path]:
    """Where its images are."""
    return reader.paths if isinstance(reader, ListedReader) else [reader.root / path for path in reader.paths]


def _copied_rows(reader: TableReader) -> dict[int, str]:
    """Of a table: by the bytes in its rows. Rows that name a file instead go by the file, those that name a URL by
    nothing."""
    import pyarrow.compute as pc

    table = reader.table.with_format("arrow")
    sizes: list[int | None] = []
    for batch in table.iter(batch_size=_ROWS):
        sizes += pc.binary_length(_bytes_of(batch.column(reader.column))).to_pylist()
    named = [index for index, size in enumerate(sizes) if size is None]
    paths = dict(zip(named, _paths(reader, named), strict=True))

    def look(limit: int | None) -> Any:
        def known(asked: Sequence[int]) -> Iterator[str | None]:
            for start in range(0, len(asked), _ROWS):
                rows = _bytes_of(table[list(asked[start : start + _ROWS])].column(reader.column))
                if limit is not None:
                    rows = pc.binary_slice(rows, 0, limit)
                yield from (None if one is None else digest(one) for one in rows.to_pylist())

        return known

    found = copies(len(sizes), [lambda asked: (sizes[index] for index in asked), look(HEAD), look(None)])
    local = [index for index in named if paths[index] is not None]
    files = copied_files([Path(str(paths[index])) for index in local])
    return found | {local[place]: content for place, content in files.items()}


def _bytes_of(records: Any) -> Any:
    """The bytes of records, an Arrow array of structs or of bytes."""
    import pyarrow
    import pyarrow.compute as pc

    if pyarrow.types.is_struct(records.type):
        known = records.type.get_field_index("bytes") >= 0
        records = pc.struct_field(records, "bytes") if known else pyarrow.nulls(len(records))
    return records.cast(pyarrow.large_binary())


def _paths(reader: TableReader, rows: Sequence[int]) -> Iterator[Path | None]:
    """The files that rows without bytes name."""
    for index in rows:
        record = reader.table[index][reader.column]
        path = record.get("path") if isinstance(record, Mapping) else None
        yield None if not path or "://" in path else reader.folder / path
