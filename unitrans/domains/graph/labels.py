"""Columns as labels: which they are, of what kind, and what they mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unitrans.data.labels import cell_text
from unitrans.domains.graph.config import DataConfig
from unitrans.domains.graph.reading import Rows
from unitrans.errors import nearest_name
from unitrans.objectives.base import LabelKind, Labels

_MANY = 10  # at most so many different values are taken for classes where no target was named


class Targets(NamedTuple):
    """Labels of all rows.

    names: the columns. values: float [R, K], NaN where missing; or of one column of classes int64 [R], -1 where
    missing. classes: names of those, None for numbers.
    """

    names: list[str]
    values: np.ndarray
    classes: tuple[str, ...] | None

    def known(self) -> np.ndarray:
        """bool [R], rows with at least one label."""
        return self.values >= 0 if self.classes is not None else np.isfinite(self.values).any(1)


def read_targets(rows: Rows, data: DataConfig, kinds: Sequence[LabelKind]) -> Targets:
    """The labels that were asked for, as the objective takes them. ValueError in one sentence."""
    names = _names(rows, data, kinds)
    if "value" in kinds:
        return Targets(names, np.stack([numbers(rows.columns[n], n) for n in names], axis=1), None)
    parsed = [_yes_or_no(rows.columns[name]) for name in names]
    if all(column is not None for column in parsed):
        return Targets(names, np.stack([c for c in parsed if c is not None], axis=1), None)
    if len(names) > 1:
        wrong = names[[column is None for column in parsed].index(True)]
        raise ValueError(
            f"data.target: several targets are yes (1) or no (0) each, and {wrong!r} has other values; "
            "name one column of classes, or use --objective regression"
        )
    text = [cell_text(value) for value in rows.columns[names[0]]]
    if _is_numeric(rows.columns[names[0]]) and any(not float(value).is_integer() for value in text if value):
        raise ValueError(
            f"data.target={names[0]!r} has fractions, which are no classes: use --objective regression, or name another"
        )
    classes = sorted({value for value in text if value is not None}, key=_class_order)
    place = {name: number for number, name in enumerate(classes)}
    values = np.array([-1 if value is None else place[value] for value in text], dtype=np.int64)
    return Targets(names, values, tuple(classes))


def _names(rows: Rows, data: DataConfig, kinds: Sequence[LabelKind]) -> list[str]:
    if data.targets:
        for name in data.targets:
            if name not in rows.columns:
                raise ValueError(
                    f"data.target={name!r} is not a column: expected one of {', '.join(rows.columns) or 'none'}"
                    f"{nearest_name(name, rows.columns)}"
                )
        return data.targets
    if rows.default_target:
        return rows.default_target
    candidates = [
        name
        for name, values in rows.columns.items()
        if name != data.split_column and (_is_numeric(values) if "value" in kinds else _is_class(values))
    ]
    if len(candidates) != 1:
        found = ", ".join(repr(name) for name in candidates) or "none of them"
        raise ValueError(
            f"data.target: name the column to predict (--target NAME): {found} can be one among "
            f"{', '.join(rows.columns) or 'no columns'}"
        )
    return candidates


def _class_order(name: str) -> tuple[float, str]:
    """Numbers by their size, then words."""
    try:
        return float(name), name
    except ValueError:
        return math.inf, name


def numbers(values: Sequence[Any], name: str) -> np.ndarray:
    """float [R], NaN where a cell is empty. ValueError names the first cell that is no finite number."""
    result = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        text = cell_text(value)
        if text is None:
            continue
        try:
            result[row] = float(text)
        except ValueError:
            result[row] = math.inf
        if not math.isfinite(result[row]):
            raise ValueError(
                f"data.target={name!r}: expected numbers or empty cells, got {text!r} in row {row + 1}"
            )
    return result


def _yes_or_no(values: Sequence[Any]) -> np.ndarray | None:
    """float [R] of 1, 0 and NaN; None where there are other values."""
    try:
        result = numbers(values, "")
    except ValueError:
        return None
    known = result[np.isfinite(result)]
    return result if np.isin(known, (0.0, 1.0)).all() else None


def _is_numeric(values: Sequence[Any]) -> bool:
    try:
        found = numbers(values, "")
    except ValueError:
        return False
    return bool(np.isfinite(found).any())


def _is_class(values: Sequence[Any]) -> bool:
    found = {cell_text(value) for value in values} - {None}
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
