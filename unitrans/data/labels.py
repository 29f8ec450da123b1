"""Labels as every domain has them: one class, or yes and no for each of several, of which some may be missing.

A label is read as the name or number of a class; as a list of the classes that hold; or, of several columns, as
{column: value}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unitrans.objectives.base import Labels

#: Cells that say nothing, in small letters.
MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "?", "-"})
_WORDS = {"true": 1.0, "false": 0.0}


def column_names(value: str | list[str] | None) -> str | list[str] | None:
    """data.label_column, "a,b" of a command line as ["a", "b"]. ValueError for a column that is there twice."""
    if isinstance(value, str) and "," in value:  # --target a,b
        value = [name.strip() for name in value.split(",")]
    if isinstance(value, list) and (not value or len(set(value)) < len(value)):
        raise ValueError(f"expected the names of different columns, got {value}")
    return value


def check_separator(column: str | list[str] | None, separator: str | None) -> None:
    """ValueError for data.label_separator beside several columns."""
    if isinstance(column, list) and separator is not None:
        raise ValueError(
            "data.label_separator is for one column of classes, and data.label_column names several: leave it out"
        )


def cell_text(value: Any) -> str | None:
    """What a cell of a table says; None where it says nothing."""
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def cell_classes(value: Any, separator: str) -> list[str] | None:
    """The classes that a cell lists; None for an empty cell, [] for one that holds the separator alone."""
    text = "" if value is None else str(value).strip()
    return [part.strip() for part in text.split(separator) if part.strip()] if text else None


def answer_names(found: Sequence[Any]) -> tuple[str, ...]:
    """What labels of several answers are about: the columns, or the classes that occur. ValueError for none."""
    if isinstance(found[0], Mapping):
        return tuple(found[0])
    names = tuple(class_names([one for label in found for one in label]))
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


def answers_of(label: Any, names: Sequence[str]) -> np.ndarray | None:
    """A label as float32 [K], yes (1), no (0) or missing (NaN) for every name; None if a class in a list is unknown.

    Args:
        label: column -> value, or a list of the classes that hold.

    Raises:
        ValueError: a column whose value is neither 1, 0 nor empty.
    """
    if isinstance(label, Mapping):
        return np.asarray([_yes_or_no(label[name], name) for name in names], dtype=np.float32)
    answers = np.zeros(len(names), dtype=np.float32)
    for one in label:
        number = class_number(one, names)
        if number is None:
            return None
        answers[number] = 1.0
    return answers


def _yes_or_no(value: Any, column: str) -> float:
    text = "" if value is None else cell_text(value)
    if not text:
        return math.nan
    try:
        number = _WORDS[text.lower()] if text.lower() in _WORDS else float(text)
    except ValueError:
        number = math.inf
    if number not in (0.0, 1.0):
        raise ValueError(
            f"data.label_column: of several columns each is yes (1) or no (0), and {column!r} has {value!r}: name one "
            "column of classes, or use objective regression"
        )
    return number


def class_names(labels: Sequence[Any]) -> list[str]:
    """The names of the classes that occur: whole numbers by their size, others as text. ValueError for fractions."""
    found = {int(one) if isinstance(one, (bool, np.bool_)) else one for one in labels}
    fraction = next((one for one in found if isinstance(one, float) and one != int(one)), None)
    if fraction is not None:
        raise ValueError(
            f"data.label_column: expected classes, got {fraction}; use objective regression for numbers"
        )
    if all(isinstance(one, (int, float, np.integer)) for one in found):
        return [str(one) for one in sorted({int(one) for one in found})]
    return sorted(str(one) for one in found)


def class_number(label: Any, names: Sequence[str]) -> int | None:
    """The number of a class from its name, or from its number where the names are others; None if it is unknown."""
    is_number = isinstance(label, (bool, int, float, np.integer))
    name = str(int(label)) if is_number else str(label)
    if name in names:
        return list(names).index(name)
    return int(label) if is_number and 0 <= label < len(names) else None
