"""Tables in files of text: columns between commas, tabs or semicolons, and SMILES line by line."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a header calls a column of SMILES, without spaces, dashes and capitals.
SMILES_NAMES = {"smiles", "canonicalsmiles", "isomericsmiles", "rdkitsmiles", "smi", "smilesstring"}


def open_text(path: Path) -> Any:
    """A text file, unpacked if it ends in .gz. Reading raises ValueError where a packed file is cut or damaged."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="")


def open_bytes(path: Path) -> Any:
    """The same for a file that is no text, or in an encoding of its own."""
    return io.BufferedReader(_Unpacked(path), 1 << 16) if path.suffix == ".gz" else path.open("rb")


class _Unpacked(io.RawIOBase):
    """The bytes inside of a .gz file."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, gzip.GzipFile(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{self._path}: it is cut or damaged and cannot be unpacked ({error}): copy or pack it again"
            ) from None

    def close(self) -> None:
        self._file.close()
        super().close()


def table_lines(file: Any, name: str, delimiter: str | None) -> Iterator[list[str]]:
    """The rows of a table, the names of its columns first. A .smi file has none: SMILES and, behind a space, a name.

    ValueError for what is no table.
    """
    first = file.readline()
    if not first.strip():
        return
    base = name.removesuffix(".gz").lower()
    tokens = first.split()
    if base.endswith((".smi", ".smiles")) and not {t.lower() for t in tokens} & SMILES_NAMES:
        yield ["smiles", "name"]
        for line in [first, *file]:
            smiles, _, rest = line.strip().replace("\t", " ").partition(" ")
            if smiles:
                yield [smiles, rest.strip()]
        return
    if delimiter is None:
        counts = {mark: first.count(mark) for mark in (",", "\t", ";")}
        delimiter = max(counts, key=lambda mark: counts[mark])
        delimiter = delimiter if counts[delimiter] else ","
    try:
        yield from _separated(first, file, name, delimiter)
    except csv.Error as error:
        raise ValueError(f"{name}: expected a table with {delimiter!r} between its cells: {error}") from None


def _separated(first: str, file: Any, name: str, delimiter: str) -> Iterator[list[str]]:
    if "\0" in first:
        raise ValueError(f"{name}: expected text in UTF-8, got NUL characters: it is no table")
    header = next(csv.reader([first], delimiter=delimiter))
    names = [cell.strip() for cell in header]
    twice = [cell for cell in names if names.count(cell) > 1]
    if twice:
        raise ValueError(f"{name}: two columns are called {twice[0]!r}: rename one")
    yield names
    yield from (row for row in csv.reader(file, delimiter=delimiter) if row)
