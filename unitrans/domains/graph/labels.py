"""Columns as labels: which they are, of what kind, and what they mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unitrans.data.columns import Column, spellings, stated_missing, type_column
from unitrans.data.labels import check_known, class_names, target_columns
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.reading import Rows
from unitrans.domains.kept import Kept
from unitrans.objectives.base import LabelKind, Labels

_MANY = 10  # at most so many different values are taken for classes where no target was named


class Targets(NamedTuple):
    """Labels of all rows.

    columns: where they are. values: float [R, K], NaN where missing; or of one column of classes int64 [R], -1 where
    missing. classes: names of those, None for numbers. notes: sentences about the cells.
    """

    columns: list[Column]
    values: np.ndarray
    classes: tuple[str, ...] | None
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """What the columns are called."""
        return [column.name for column in self.columns]

    def known(self) -> np.ndarray:
        """bool [R], rows with at least one label."""
        return self.values >= 0 if self.classes is not None else np.isfinite(self.values).any(1)


def read_targets(
    rows: Rows, data: DataConfig, kinds: Sequence[LabelKind], kept: Kept | None = None
) -> Targets:
    """The labels that were asked for, as the objective takes them; kept: as a run that goes on has them. ValueError in
    one sentence."""
    if kept is None:
        names = _names(rows, data, kinds)
        columns = [type_column(name, rows.columns[name], data.missing) for name in names]
    else:
        names, columns = list(kept.columns), list(kept.columns.values())
        check_known(names, list(rows.columns), "data.target")
    notes = [note for column in columns for note in stated_missing(rows.columns[column.name], column)]
    if "value" in kinds:
        values = np.stack([numbers(rows.columns[column.name], column) for column in columns], axis=1)
        return Targets(columns, values, None, notes)
    signs = len(names) > 1  # of one column -1 and 1 are two classes
    answers = [_answers(rows.columns[column.name], column, signs) for column in columns]
    as_answers = all(column is not None for column in answers)
    if kept is not None and kept.labels is not None:
        as_answers = kept.labels.kind == "multi" and as_answers
    if as_answers:
        return Targets(columns, np.stack([c for c in answers if c is not None], axis=1), None, notes)
    if len(names) > 1:
        wrong = names[[column is None for column in answers].index(True)]
        raise ValueError(
            f"data.target: several targets are yes (1) or no (0, or -1) each, and {wrong!r} has other values; "
            "name one column of classes, or use --objective regression"
        )
    column, cells = columns[0], rows.columns[names[0]]
    classes = class_names(cells, column)
    if kept is not None and kept.labels is not None:
        unknown = next((name for name in classes if name not in kept.labels.names), None)
        if unknown is not None:
            raise ValueError(
                f"data.target={column.name!r}: this run has no class {unknown!r}: start a new run for it"
            )
        classes = list(kept.labels.names)
    place: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: -1}
    places = np.array([place[column.text(cell)] for cell in cells], dtype=np.int64)
    return Targets(columns, places, tuple(classes), notes + spellings(cells, column))


def _names(rows: Rows, data: DataConfig, kinds: Sequence[LabelKind]) -> list[str]:
    asked = target_columns(data.target, rows.columns)
    if asked is not None:
        names = [asked] if isinstance(asked, str) else asked
        check_known(names, list(rows.columns), "data.target")
        return names
    if rows.default_target:
        return rows.default_target
    candidates = [
        name
        for name, values in rows.columns.items()
        if name != data.split_column
        and (_is_numeric(values, data) if "value" in kinds else _is_class(name, values, data))
    ]
    if len(candidates) != 1:
        found = ", ".join(repr(name) for name in candidates) or "none of them"
        raise ValueError(
            f"data.target: name the column to predict (--target NAME): {found} can be one among "
            f"{', '.join(rows.columns) or 'no columns'}"
        )
    return candidates


def numbers(values: Sequence[Any], column: Column) -> np.ndarray:
    """float [R], NaN where a cell is empty. ValueError names the first cell that is no finite number."""
    result = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            result[row] = column.number(value)
        except ValueError:
            raise ValueError(
                f"data.target={column.name!r}: expected numbers or empty cells, got {str(value).strip()!r} in row "
                f"{row + 1}"
            ) from None
    return result


def _answers(values: Sequence[Any], column: Column, signs: bool) -> np.ndarray | None:
    """float [R] of 1, 0 and NaN; None where there are other values. signs: -1 may stand for 0."""
    if not signs and column.kind != "number":
        return None
    try:
        return np.array([column.answer(value) for value in values], dtype=float)
    except ValueError:
        return None


def _is_numeric(values: Sequence[Any], data: DataConfig) -> bool:
    return type_column("", values, data.missing).kind != "text"


def _is_class(name: str, values: Sequence[Any], data: DataConfig) -> bool:
    column = type_column(name, values, data.missing)
    found = {column.text(value) for value in values} - {None}
    return 1 < len(found) <= _MANY


def meaning(targets: Targets, train: np.ndarray) -> Labels:
    """What the labels mean, from the rows that are trained on."""
    names = tuple(targets.names)
    values = targets.values[train]
    if targets.classes is not None:
        counts = Counter(values.tolist())
        return Labels("class", targets.classes, tuple(counts[c] for c in range(len(targets.classes))))
    known = np.isfinite(values)
    for name, count in zip(names, known.sum(0), strict=True):
        if count == 0:
            raise ValueError(f"data.target={name!r}: no training sample has a label")
    return Labels("multi", names, tuple((values == 1).sum(0).tolist()), known=tuple(known.sum(0).tolist()))


def value_meaning(targets: Targets, train: np.ndarray) -> Labels:
    """The same for numbers to predict: their mean and standard deviation."""
    values = targets.values[train]
    counts = np.isfinite(values).sum(0)
    for name, count, column in zip(targets.names, counts, values.T, strict=True):
        if count == 0:
            raise ValueError(f"data.target={name!r}: no training sample has a label")
        if np.nanstd(column) == 0:
            raise ValueError(
                f"data.target={name!r} is {column[np.isfinite(column)][0]:g} for every training sample: there is "
                "nothing to learn"
            )
    return Labels(
        "value",
        tuple(targets.names),
        mean=tuple(np.nanmean(values, axis=0).tolist()),
        std=tuple(np.nanstd(values, axis=0).tolist()),
    )
