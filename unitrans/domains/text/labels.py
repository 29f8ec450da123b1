"""Labels of documents: classes, several yes or no, values, and classes of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unitrans.data.columns import Column
from unitrans.data.labels import (
    answer_labels,
    answer_names,
    answers_of,
    check_answers,
    class_names,
    class_number,
    column_notes,
)
from unitrans.domains.text.documents import Documents, all_documents
from unitrans.domains.text.reading import Document
from unitrans.objectives.base import LabelKind, Labels

Rule = Callable[[Document, str], bool]  # document and id of one of its samples -> whether it is held out


def find_labels(documents: Documents, kind: LabelKind, held_out: Rule) -> Labels:
    """What the labels of the training documents mean: their classes, or mean and deviation of their values."""
    found = [document.label for document in all_documents(documents) if not held_out(document, document.id)]
    if not found:
        raise ValueError("data.path: none of the documents to train on has a label")
    columns = documents.columns
    documents.notes += column_notes(found, columns)
    column = next(iter(columns.values()), None)
    if kind == "value":
        return _values(found, columns)
    if kind == "multi":
        answered = tuple(documents.label_names or ()) or answer_names(found, column)
        rows = [row for row in (answers_of(label, answered, columns) for label in found) if row is not None]
        labels = answer_labels(answered, rows)
        check_answers(labels)
        return labels
    flat = [one for label in found for one in label] if kind == "token" else found
    names = tuple(documents.label_names or class_names(flat, column))
    counts = np.bincount(
        [n for n in (class_number(one, names, column) for one in flat) if n is not None], minlength=len(names)
    )
    return Labels(kind, names, tuple(counts.tolist()))


def _values(found: Sequence[Any], cells: Mapping[str, Column]) -> Labels:
    """Mean and deviation of values; of several columns each its own."""
    columns = tuple(found[0]) if isinstance(found[0], Mapping) else ()
    rows = [values_of(label, cells) for label in found]
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


def values_of(label: Any, cells: Mapping[str, Column] | None = None) -> np.ndarray:
    """A label as numbers, float64 [K]; NaN where one of several columns is empty. ValueError for others."""
    parts = list(label.values()) if isinstance(label, Mapping) else label
    parts = parts if isinstance(parts, (list, tuple, np.ndarray)) else [parts]
    column = next(iter((cells or {}).values()), None) or Column("", "number")
    try:
        return np.asarray([column.number(one) for one in parts], dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"data.label_column: expected numbers, got {label!r} for example") from None
