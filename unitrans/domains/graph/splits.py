"""Which molecules are trained on, which choose the checkpoint, and which judge it.

Every split is made of units, the different molecules (canonical SMILES): no molecule is on two sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from unitrans.domains.graph import chemistry

SplitKind = Literal["random", "scaffold", "scaffold_deepchem", "column", "official"]

#: What a column may call the parts.
PART_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class Parts(NamedTuple):
    """Numbers of units, or of rows, of each part."""

    train: list[int]
    validation: list[int]
    test: list[int]


def _sizes(count: int, validation: float, test: float) -> tuple[int, int]:
    """How many units are held out; at least one where a part was asked for and one is left to train on."""
    held = [max(1, round(count * part)) if part else 0 for part in (validation, test)]
    if count - sum(held) < 1:
        raise ValueError(
            f"data.validation={validation:g} and data.test={test:g} leave none of {count} different molecules to "
            "train on: lower them, or set data.validation=0"
        )
    return held[0], held[1]


def random_split(count: int, validation: float, test: float, seed: int) -> Parts:
    """A permutation of the units by the seed: test first, then validation, the rest is trained on."""
    held, tested = _sizes(count, validation, test)
    order = np.random.Generator(np.random.Philox(seed)).permutation(count).tolist()
    return Parts(
        sorted(order[tested + held :]), sorted(order[tested : tested + held]), sorted(order[:tested])
    )


def scaffold_sets(smiles: Sequence[str]) -> list[list[int]]:
    """Units with the same Bemis-Murcko scaffold, in order of first appearance. Those without rings are one set."""
    sets: defaultdict[str, list[int]] = defaultdict(list)
    for unit, text in enumerate(smiles):
        sets[chemistry.scaffold(text)].append(unit)
    return list(sets.values())


def scaffold_balanced(sets: list[list[int]], validation: float, test: float, seed: int) -> Parts:
    """As chemprop's `scaffold_balanced`: large sets (more than half of a held-out part) first, in random order, then
    the others in random order; each goes to the first of train, validation and test that has room for all of it."""
    count = sum(map(len, sets))
    held, tested = _sizes(count, validation, test)
    rng = np.random.Generator(np.random.Philox(seed))
    limits = [size / 2 for size in (held, tested) if size]
    large = [s for s in sets if any(len(s) > limit for limit in limits)]
    small = [s for s in sets if all(len(s) <= limit for limit in limits)]
    ordered = [group[i] for group in (large, small) for i in rng.permutation(len(group))]
    parts = Parts([], [], [])
    for units in ordered:
        if len(parts.train) + len(units) <= count - held - tested:
            parts.train.extend(units)
        elif held and len(parts.validation) + len(units) <= held:
            parts.validation.extend(units)
        else:
            (parts.test if tested else parts.validation).extend(units)
    return parts


def scaffold_by_size(sets: list[list[int]], validation: float, test: float) -> Parts:
    """As DeepChem's `ScaffoldSplitter`: sets from the largest to the smallest (of equal ones, the one that begins
    later first) fill train, then validation, then test. The test part is the rare scaffolds; nothing is random."""
    count = sum(map(len, sets))
    held, tested = _sizes(count, validation, test)
    parts = Parts([], [], [])
    for units in sorted(sets, key=lambda s: (len(s), s[0]), reverse=True):
        if len(parts.train) + len(units) <= count - held - tested:
            parts.train.extend(units)
        elif held and len(parts.train) + len(parts.validation) + len(units) <= count - tested:
            parts.validation.extend(units)
        else:
            (parts.test if tested else parts.validation).extend(units)
    return parts


def column_split(values: Sequence[str], units: Sequence[int], column: str) -> tuple[Parts, int]:
    """Rows by the names in a column, and how many rows were left out because their molecule is judged elsewhere.

    Args:
        values: the name of a part for each row.
        units: the molecule of each row.

    A molecule in two parts counts for the later one: test before validation before train.
    """
    parts = Parts([], [], [])
    for row, value in enumerate(values):
        name = PART_NAMES.get(str(value).strip().lower())
        if name is None:
            raise ValueError(
                f"data.split_column={column!r}: expected {', '.join(PART_NAMES)}, got {value!r} in row {row + 1}"
            )
        getattr(parts, name).append(row)
    tested = {units[row] for row in parts.test}
    validation = [row for row in parts.validation if units[row] not in tested]
    judged = tested | {units[row] for row in validation}
    train = [row for row in parts.train if units[row] not in judged]
    return Parts(train, validation, parts.test), len(values) - len(train) - len(validation) - len(parts.test)


def kept_split(rows: Sequence[int], keys: Sequence[str], held_out: Mapping[str, Sequence[str]]) -> Parts:
    """Rows by the keys of the graphs that were held out before; graphs that are new are trained on.

    Args:
        rows: those that can be used. keys: of all rows; see `GraphTable.keys`.
        held_out: keys by part.
    """
    part_of = {key: name for name, part in held_out.items() for key in part}
    parts = Parts([], [], [])
    for row in rows:
        getattr(parts, part_of.get(keys[row], "train")).append(row)
    return parts


def rows_of(parts: Parts, units: Sequence[int], rows: Sequence[int]) -> Parts:
    """Units to rows; units[i] is the unit of rows[i]."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row, unit in zip(rows, units, strict=True):
        members[unit].append(row)
    return Parts(*(sorted(row for unit in part for row in members[unit]) for part in parts))
