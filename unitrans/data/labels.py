"""Labels as every domain has them: one class, or yes and no for each of several, of which some may be missing.

A label is read as the cell of a column of classes; as a list of the classes that hold; or, of several columns, as
{column: cell}. What a cell means is decided by its column (``unitrans.data.columns``).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unitrans.data.columns import (
    Column,
    class_order,
    column_of_names,
    is_number,
    plain_number,
    spellings,
    stated_missing,
    type_column,
)
from unitrans.errors import nearest_name
from unitrans.objectives.base import Labels

#: What a column of labels is called where nobody names it.
USUAL = ("label", "labels", "class", "target", "fine_label", "y")
SHOWN = 12  # classes whose counts are printed


def check_columns(value: str | list[str] | None) -> str | list[str] | None:
    """data.label_column or data.target as given. ValueError for a column that is there twice."""
    if isinstance(value, list) and (not value or len(set(value)) < len(value)):
        raise ValueError(f"expected the names of different columns, got {value}")
    return value


def target_columns(value: str | list[str] | None, names: Iterable[str]) -> str | list[str] | None:
    """The columns that --target means: "a,b" is one column where a table has one of that name, else two. A name with a
    comma among several stands in quotation marks, as in a line of CSV.

    ValueError for a column that is there twice.
    """
    if not isinstance(value, str) or "," not in value or value in set(names):
        return value
    parts = [name.strip() for name in next(csv.reader([value], skipinitialspace=True))]
    return check_columns(parts) if len(parts) > 1 else parts[0]


def check_known(columns: Iterable[str], names: Sequence[str], key: str, where: str = "") -> None:
    """ValueError for a column that a table does not have."""
    for name in columns:
        if name not in names:
            column = f"a column of {where}" if where else "a column"
            raise ValueError(
                f"{key}={name!r} is not {column}: expected one of {', '.join(names) or 'none'}"
                f"{nearest_name(name, names)}"
            )


def check_separator(column: str | list[str] | None, separator: str | None) -> None:
    """ValueError for data.label_separator beside several columns."""
    if isinstance(column, list) and separator is not None:
        raise ValueError(
            "data.label_separator is for one column of classes, and data.label_column names several: leave it out"
        )


def cell_classes(value: Any, separator: str) -> list[str] | None:
    """The classes that a cell lists; None for an empty cell, [] for one that holds the separator alone."""
    text = "" if value is None else str(value).strip()
    return [part.strip() for part in text.split(separator) if part.strip()] if text else None


# ---- from cells to labels -------------------------------------------------------------------------------------


def label_columns(
    labels: Sequence[Any], name: str | None, missing: Sequence[str] | None = None
) -> dict[str, Column]:
    """The typed columns of training labels; see the module. name: of the one column, where there is one."""
    found = [label for label in labels if label is not None]
    if found and isinstance(found[0], Mapping):
        return {key: type_column(key, (label[key] for label in found), missing) for key in found[0]}
    cells = [
        cell
        for label in found
        for cell in (label if isinstance(label, (list, tuple, np.ndarray)) else [label])
    ]
    return {name or "": type_column(name or "", cells, missing)}


def says_nothing(label: Any, columns: Mapping[str, Column]) -> bool:
    """Whether a label is missing: None, an empty cell, or empty cells in all columns."""
    if isinstance(label, Mapping):
        return all(columns[name].text(cell) is None for name, cell in label.items())
    if label is None or isinstance(label, (list, tuple, np.ndarray)):
        return label is None
    return next(iter(columns.values())).text(label) is None


def column_notes(labels: Sequence[Any], columns: Mapping[str, Column]) -> list[str]:
    """Sentences about cells that are written in several ways, or count as empty."""
    notes = []
    for name, column in columns.items():
        cells = [
            label[name] if isinstance(label, Mapping) else label for label in labels if label is not None
        ]
        flat = [one for cell in cells for one in (cell if isinstance(cell, (list, tuple)) else [cell])]
        notes += [] if isinstance(next(iter(labels), None), Mapping) else spellings(flat, column)
        notes += stated_missing(flat, column)
    return notes


def answer_names(found: Sequence[Any], column: Column | None = None) -> tuple[str, ...]:
    """What labels of several answers are about: the columns, or the classes that occur. ValueError for none."""
    if isinstance(found[0], Mapping):
        return tuple(found[0])
    names = tuple(class_names([one for label in found for one in label], column))
    if not names:
        raise ValueError("data.label_column: none of the samples to train on has a class in its list")
    return names


def answer_labels(names: Sequence[str], answers: Sequence[np.ndarray]) -> Labels:
    """What answers mean, [K] each; see `answers_of`."""
    table = np.stack(answers)
    yes, known = (table == 1).sum(0).tolist(), np.isfinite(table).sum(0).tolist()
    return Labels("multi", tuple(names), tuple(yes), known=tuple(known))


def check_answers(labels: Labels) -> None:
    """ValueError for a target that no training sample says anything about."""
    for name, count in zip(labels.names, labels.known, strict=True):
        if count == 0:
            raise ValueError(f"data.label_column={name!r}: no training sample has a label")


def answers_of(
    label: Any, names: Sequence[str], columns: Mapping[str, Column] | None = None
) -> np.ndarray | None:
    """A label as float32 [K], yes (1), no (0) or missing (NaN) for every name; None if a class in a list is unknown.

    Args:
        label: column -> cell, or a list of the classes that hold.
        columns: how their cells are read; None: as those of numbers, or as the names let it be told.

    Raises:
        ValueError: a column whose cell is neither 1, 0 nor empty.
    """
    columns = columns or {}
    if isinstance(label, Mapping):
        return np.asarray(
            [_answer(label[name], columns.get(name) or Column(name, "number")) for name in names],
            dtype=np.float32,
        )
    answers = np.zeros(len(names), dtype=np.float32)
    for one in label:
        number = class_number(one, names, next(iter(columns.values()), None))
        if number is None:
            return None
        answers[number] = 1.0
    return answers


def _answer(cell: Any, column: Column) -> float:
    try:
        return column.answer(cell)
    except ValueError:
        raise ValueError(
            f"data.label_column: of several columns each is yes (1) or no (0), and {column.name!r} has {cell!r}: name "
            "one column of classes, or use objective regression"
        ) from None


def class_names(cells: Sequence[Any], column: Column | None = None) -> list[str]:
    """The names of the classes that occur: numbers by their size, then words. ValueError for fractions."""
    column = column or type_column("", cells)
    found = {name for name in map(column.text, cells) if name is not None}
    fraction = next((name for name in sorted(found) if column.kind != "text" and "." in name), None)
    if fraction is not None:
        about = f"={column.name!r}" if column.name else ""
        raise ValueError(
            f"data.label_column{about} holds fractions ({fraction}): expected classes, as text or whole numbers; use "
            "objective regression for numbers"
        )
    return sorted(found, key=class_order if column.kind != "text" else str)


def class_number(cell: Any, names: Sequence[str], column: Column | None = None) -> int | None:
    """The number of a class from its name, or from its number where the names are words; None if it is unknown."""
    column = column or column_of_names(names)
    places = _places(tuple(names))
    written = str(cell).strip()
    if written in places:
        return places[written]
    name = column.text(cell)
    if name in places:
        return places[name]
    plain = {"true": "1", "false": "0"}.get(written.lower()) if set(names) <= {"0", "1"} else name
    if (
        plain is not None
        and column.kind != "text"
        and is_number(plain)
        and plain_number(plain) in _plain(tuple(names))
    ):
        return _plain(tuple(names))[plain_number(plain)]
    is_place = (
        isinstance(cell, (int, np.integer)) and not isinstance(cell, bool) and not any(map(is_number, names))
    )
    return int(cell) if is_place and 0 <= cell < len(names) else None


@functools.lru_cache(64)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


@functools.lru_cache(64)
def _plain(names: tuple[str, ...]) -> dict[str, int]:
    """The numbers of classes that are called by numbers, however these are written."""
    return {plain_number(name): number for number, name in enumerate(names) if is_number(name)}


# ---- in words -------------------------------------------------------------------------------------------------


def describe(labels: Labels | None) -> str | None:
    """One line with the classes and how many training samples each has; of numbers their mean and deviation."""
    if labels is None:
        return None
    if labels.kind == "value":
        shown = [
            f"{name} {mean:.4g} +- {std:.3g}"
            for name, mean, std in zip(labels.names, labels.mean, labels.std, strict=True)
        ]
        what = "training values"
    elif labels.kind == "multi":
        shown = [
            f"{name} {yes:,} of {known:,}"
            for name, yes, known in zip(labels.names, labels.counts, labels.known, strict=True)
        ]
        what = "yes among the known training answers"
    else:
        counts = labels.counts or (None,) * len(labels.names)
        shown = [
            name if count is None else f"{name} {count:,}"
            for name, count in zip(labels.names, counts, strict=True)
        ]
        what = f"{len(shown):,} classes of training {'words' if labels.kind == 'token' else 'samples'}"
    more = f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else ""
    return f"{what}: {', '.join(shown[:SHOWN])}{more}"
