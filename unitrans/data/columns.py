"""What the cells of a column mean: one rule, applied to the training data and kept in the run.

A column is of numbers where every cell that says something is a plain number; then 1 and 1.0 are the same. Otherwise it
is of words; 010 and 10 are different words, so one such cell makes a whole column words. White space around a cell
counts nowhere. A cell is missing when it is empty or what ``data.missing`` names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

#: What stands for an empty cell in a column of numbers where ``data.missing`` says nothing else, in small letters.
MISSING = frozenset({"nan", "na", "n/a", "none", "null", "?", "-"})
_NUMBER = re.compile(r"[-+]?(?=\.?[0-9])(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"true": 1.0, "false": 0.0}

ColumnKind = Literal["number", "sign", "text"]


def is_number(text: str) -> bool:
    """Whether a text is a plain finite number, without zeros in front that a number would lose."""
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def cell_text(value: Any) -> str | None:
    """What a cell says, white space around it left out; None for an empty one. Whole numbers are written without a
    point, whatever a file kept them as."""
    if value is None:
        return None
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value).strip() or None


@dataclass(frozen=True)
class Column:
    """How the cells of a column are read.

    kind: number; sign, numbers of which all are -1 or 1; text. missing: what stands for an empty cell; None: MISSING
    where numbers are expected.
    """

    name: str
    kind: ColumnKind
    missing: tuple[str, ...] | None = None

    def text(self, cell: Any) -> str | None:
        """The name of the class that a cell says; None where it is missing."""
        text = cell_text(cell)
        if text is None or self._is_missing(text, self.kind != "text"):
            return None
        return plain_number(text) if self.kind != "text" and is_number(text) else text

    def number(self, cell: Any) -> float:
        """A cell as a number; NaN where it is missing. ValueError for one that is none."""
        text = cell_text(cell)
        if text is None or self._is_missing(text, True):
            return math.nan
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {text!r}")
        return value

    def answer(self, cell: Any) -> float:
        """Yes (1), no (0) or missing (NaN). ValueError for a cell that is neither."""
        text = cell_text(cell)
        if text is not None and text.lower() in _WORDS:
            return _WORDS[text.lower()]
        value = self.number(cell)
        if self.kind == "sign" and value == -1:
            return 0.0
        if not math.isnan(value) and value not in (0.0, 1.0):
            raise ValueError(f"expected 1 or 0, got {text!r}")
        return value

    def _is_missing(self, text: str, numeric: bool) -> bool:
        if self.missing is not None:
            return text in self.missing
        return numeric and text.lower() in MISSING


def type_column(name: str, cells: Iterable[Any], missing: Sequence[str] | None = None) -> Column:
    """The column that these cells, of training samples, make."""
    told = None if missing is None else tuple(missing)
    reader = Column(name, "text", told)
    found = {
        cell for cell in map(cell_text, cells) if cell is not None and not reader._is_missing(cell, True)
    }
    if not found or not all(map(is_number, found)):
        return Column(name, "text", told)
    values = {float(cell) for cell in found}
    return Column(name, "sign" if values <= {-1.0, 1.0} and -1.0 in values else "number", told)


def plain_number(text: str) -> str:
    """A number as a class is called by it: 1 for 1.0, 1e0 and +1."""
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value)


def class_order(name: str) -> tuple[float, str]:
    """Numbers by their size, then words."""
    return (float(name), name) if is_number(name) else (math.inf, name)


def spellings(cells: Iterable[Any], column: Column) -> list[str]:
    """Sentences about classes that are written in several ways."""
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        name = column.text(cell)
        if name is not None:
            written = found.setdefault(name, {})
            text = cell if isinstance(cell, str) else str(cell)
            written[text] = written.get(text, 0) + 1
    return [
        f"column {column.name}: {' and '.join(map(repr, sorted(written)[:4]))} are one class, {name}"
        for name, written in found.items()
        if len(written) > 1
    ]


def stated_missing(cells: Iterable[Any], column: Column) -> list[str]:
    """A sentence where words are taken for empty cells though nobody named them."""
    if column.kind == "text" or column.missing is not None:
        return []
    words = [text for text in map(cell_text, cells) if text is not None and text.lower() in MISSING]
    if not words:
        return []
    return [
        f"column {column.name}: {len(words):,} cells such as {words[0]!r} count as empty (data.missing says what does)"
    ]


def columns_of(
    reading: Mapping[str, Any], names: Sequence[str], classes: Sequence[str] = ()
) -> dict[str, Column]:
    """The columns of labels as a run has kept them.

    Args:
        reading: of the run; one that was made before columns were kept has none.
        names: the columns.
        classes: the names of its classes, by which the column of such a run is told.
    """
    kept, missing = reading.get("columns") or {}, reading.get("missing")
    told = None if missing is None else tuple(missing)
    return {name: Column(name, kept.get(name) or column_of_names(classes).kind, told) for name in names}


def column_of_names(names: Sequence[str]) -> Column:
    """The column whose classes are called like this."""
    numeric = all(is_number(name) for name in names)
    return Column("", "number" if numeric else "text")
