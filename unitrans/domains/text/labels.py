"""Labels of documents: classes, several yes or no, values, and classes of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unitrans.domains.text.documents import Documents, all_documents
from unitrans.domains.text.reading import Document
from unitrans.objectives.base import LabelKind, Labels

Rule = Callable[[Document, str], bool]  # document and id of one of its samples -> whether it is held out


def find_labels(documents: Documents, kind: LabelKind, held_out: Rule) -> Labels:
    """What the labels of the training documents mean: their classes, or mean and deviation of their values."""
    found = [document.label for document in all_documents(documents) if not held_out(document, document.id)]
    if not found:
        raise ValueError("data.path: none of the documents to train on has a label")
    if kind == "value":
        return _values(found)
    if kind == "multi":
        return _answers(found, documents.label_names)
    flat = [one for label in found for one in label] if kind == "token" else found
    names = tuple(documents.label_names or class_names(flat))
    counts = np.bincount(
        [n for n in (class_number(one, names) for one in flat) if n is not None], minlength=len(names)
    )
    return Labels(kind, names, tuple(counts.tolist()))


def _values(found: Sequence[Any]) -> Labels:
    """Mean and deviation of values; of several columns each its own."""
    columns = tuple(found[0]) if isinstance(found[0], Mapping) else ()
    rows = [values_of(label) for label in found]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("data.label_column: expected equally many numbers in every row")
    values = np.stack(rows)
    known = np.isfinite(values)
    if not known.any(0).all():
        raise ValueError("data.label_column: a column has no number in the documents to train on")
    std = np.nanstd(values, 0)
    numbered = (
        tuple(f"value {place}" for place in range(values.shape[1])) if values.shape[1] > 1 else ("value",)
    )
    return Labels(
        "value",
        columns or numbered,
        mean=tuple(np.nanmean(values, 0).tolist()),
        std=tuple(np.where(std > 0, std, 1.0).tolist()),
    )


def values_of(label: Any) -> np.ndarray:
    """A label as numbers, float64 [K]; NaN where one of several columns is empty. ValueError for others."""
    parts = list(label.values()) if isinstance(label, Mapping) else label
    parts = parts if isinstance(parts, (list, tuple, np.ndarray)) else [parts]
    try:
        return np.asarray([math.nan if one is None else float(one) for one in parts], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"data.label_column: expected numbers, got {label!r} for example") from None


def _answers(found: Sequence[Any], declared: Sequence[str] | None) -> Labels:
    """Yes or no: for every column, or for every class that lists name."""
    if isinstance(found[0], Mapping):
        names = tuple(found[0])
    else:
        names = tuple(declared or class_names([one for label in found for one in label]))
    if not names:
        raise ValueError("data.label_column: none of the documents to train on has a class in its list")
    rows = [row for row in (answers_of(label, names) for label in found) if row is not None]
    table = np.stack(rows)
    yes, known = (table == 1).sum(0).tolist(), np.isfinite(table).sum(0).tolist()
    return Labels("multi", names, tuple(yes), known=tuple(known))


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
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, (bool, int, float, np.number)) and float(value) in (0.0, 1.0):
        return float(value)
    raise ValueError(
        f"data.label_column: of several columns each is yes (1) or no (0), and {column!r} has {value!r}: name one "
        "column of classes, or use objective regression"
    )


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
