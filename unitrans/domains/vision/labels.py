"""Classes of images: from the folders they lie in, from a column of a table, or with an embedded data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unitrans.data.columns import Column, column_of_names, type_column
from unitrans.data.labels import (
    USUAL,
    answer_labels,
    answer_names,
    answers_of,
    class_names,
    class_number,
)
from unitrans.errors import nearest_name
from unitrans.objectives.base import Labels


def label_column(features: Mapping[str, Any], asked: str | None, where: str) -> tuple[str, list[str] | None]:
    """The column that holds the class, and the names of the classes where the table declares them.

    ``asked``, else the only one of type ClassLabel, else the first with a usual name. ValueError names the columns when
    there is none or a choice."""
    import datasets

    listed = ", ".join(features)
    if asked is not None and asked not in features:
        raise ValueError(
            f"data.label_column={asked!r} is not a column of {where}: expected one of {listed}"
            f"{nearest_name(asked, features)}"
        )
    declared = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if asked is None and len(declared) > 1:
        raise ValueError(
            f"{where} has several columns of classes ({', '.join(declared)}): choose one with "
            f"data.label_column={declared[0]}"
        )
    found = [asked] if asked is not None else declared or [name for name in USUAL if name in features]
    if not found:
        raise ValueError(
            f"{where} has no column of classes: expected one of type ClassLabel or one named "
            f"{' or '.join(USUAL)}, got {listed}; name it with data.label_column"
        )
    feature = features[found[0]]
    if isinstance(feature, datasets.ClassLabel):
        return found[0], list(feature.names)
    if getattr(feature, "dtype", "") not in ("string", "large_string", "bool") and not getattr(
        feature, "dtype", ""
    ).startswith(("int", "uint")):
        raise ValueError(
            f"data.label_column={found[0]!r} of {where} holds {getattr(feature, 'dtype', feature)}: expected "
            "classes, as text or whole numbers"
        )
    return found[0], None


def class_name(value: Any, names: Sequence[str] | None) -> Any:
    """What a table says about the class of a row: its name where names are declared, None where there is none."""
    if names is None or value is None:
        return value
    return names[value] if 0 <= value < len(names) else None


def folder_label(sample_id: str) -> str | None:
    """The class of a file: the first folder of its path below the data folder; None for a file that is in none."""
    folder, slash, _ = sample_id.partition("/")
    return folder if slash else None


def numbered(
    values: Sequence[Any],
    ids: Sequence[str],
    names: Sequence[str] | None,
    where: str,
    column: Column | None = None,
) -> tuple[list[int], tuple[str, ...]]:
    """The number of every label, and the names of the classes.

    Args:
        values: one cell per sample, with the name or number of a class; None: there is none.
        ids: of the samples.
        names: classes that are known already (declared, or those of the training data); None: those found, sorted,
            numbers by their size.
        where: what the labels belong to, for errors.
        column: how the cells are read; None: as the names say, or the cells.

    Raises:
        ValueError: a sample without a label, or with one that is not among the names.
    """
    if column is None:
        column = type_column("", values) if names is None else column_of_names(names)
    for name, value in zip(ids, values, strict=True):
        if column.text(value) is None:
            raise ValueError(
                f"{where}: {name} has no class; put images into one folder per class, or give the column of a table "
                "with data.label_column"
            )
    known = tuple(class_names(values, column) if names is None else names)
    numbers = [class_number(value, known, column) for value in values]
    for name, value, number in zip(ids, values, numbers, strict=True):
        if number is None:
            raise ValueError(
                f"{where}: {name} is of class {column.text(value)!r}, which the training data do not have: expected "
                f"one of {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
            )
    return [number for number in numbers if number is not None], known


def answered(
    values: Sequence[Any],
    ids: Sequence[str],
    names: Sequence[str] | None,
    where: str,
    columns: Mapping[str, Column] | None = None,
) -> tuple[list[np.ndarray], Labels]:
    """Of every label float32 [K], yes (1), no (0) or missing (NaN) for each name, and what the labels mean.

    Args:
        values: of each sample {column: cell}, or a list of the classes that hold.
        ids, names, where: as for `numbered`.
        columns: how the cells are read.

    Raises:
        ValueError: a class that is not among the names, or a cell that is neither yes nor no.
    """
    for name, value in zip(ids, values, strict=True):
        if value is None:
            raise ValueError(f"{where}: {name} has no labels: leave the image out, or write an empty list")
    column = next(iter((columns or {}).values()), None)
    known = tuple(names) if names is not None else answer_names(values, column)
    answers = []
    for name, value in zip(ids, values, strict=True):
        answer = answers_of(value, known, columns)
        if answer is None:
            unknown = next(one for one in value if class_number(one, known, column) is None)
            raise ValueError(
                f"{where}: {name} has the class {str(unknown)!r}, which the training data do not have: expected some "
                f"of {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
            )
        answers.append(answer)
    return answers, answer_labels(known, answers)


def class_labels(names: Sequence[str], numbers: Sequence[int]) -> Labels:
    """The meaning of class labels, with the number of training samples of each."""
    counts = Counter(numbers)
    return Labels("class", tuple(names), tuple(counts[number] for number in range(len(names))))
