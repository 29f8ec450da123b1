"""Tables in files of text: columns between commas, tabs or semicolons, and SMILES line by line."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a header calls a column of SMILES, without spaces, dashes and capitals.
SMILES_NAMES = {"smiles", "canonicalsmiles", "isomericsmiles", "rdkitsmiles", "smi", "smilesstring"}


def open_text(path: Path) -> Any:
    """A text file, unpacked if it ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def table_lines(file: Any, name: str, delimiter: str | None) -> Iterator[list[str]]:
    """The rows of a table, the names of its columns first. A .smi file has none: SMILES and, behind a space, a name."""
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
    header = next(csv.reader([first], delimiter=delimiter))
    names = [cell.strip() for cell in header]
    twice = [cell for cell in names if names.count(cell) > 1]
    if twice:
        raise ValueError(f"{name}: two columns are called {twice[0]!r}: rename one")
    yield names
    yield from (row for row in csv.reader(file, delimiter=delimiter) if row)
