"""Splits of molecules: sizes, units on one side, the two published orders of scaffolds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitrans.domains.graph import splits


@given(
    st.integers(3, 200), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.2]), st.integers(0, 5)
)
def test_random(count, validation, test, seed) -> None:
    parts = splits.random_split(count, validation, test, seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(count))
    assert len(parts.validation) == (max(1, round(count * validation)) if validation else 0)
    assert len(parts.test) == (max(1, round(count * test)) if test else 0)
    assert parts == splits.random_split(count, validation, test, seed)


def test_another_seed_is_another_split() -> None:
    assert splits.random_split(100, 0.1, 0.1, 0) != splits.random_split(100, 0.1, 0.1, 1)


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(ValueError, match=r"data.validation=0.5 and data.test=0.5 leave none of 2"):
        splits.random_split(2, 0.5, 0.5, 0)


@given(st.lists(st.integers(1, 12), min_size=3, max_size=30), st.integers(0, 3))
def test_scaffolds_stay_together(sizes, seed) -> None:
    start, sets = 0, []
    for size in sizes:
        sets.append(list(range(start, start + size)))
        start += size
    if start < 10:
        return
    for parts in (splits.scaffold_balanced(sets, 0.1, 0.1, seed), splits.scaffold_by_size(sets, 0.1, 0.1)):
        assert sorted(unit for part in parts for unit in part) == list(range(start))
        for units in sets:
            assert sum(bool(set(units) & set(part)) for part in parts) == 1


def test_published_orders() -> None:
    """By hand: 20 units; DeepChem fills train with the largest sets, chemprop with those above half a held-out part."""
    sets = [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [15, 16], [17], [18, 19]]
    parts = splits.scaffold_by_size(sets, 0.1, 0.1)
    # 8 + 6 fit into 16, then [18, 19] (of the two sets of two the later one); [15, 16] and the single ones do not.
    assert parts.train == [*sets[1], *sets[2], 18, 19]
    assert parts.validation == [15, 16] and parts.test == [17, 0]
    seen = set()
    for seed in range(20):
        balanced = splits.scaffold_balanced(sets, 0.1, 0.1, seed)
        # More than half of a held-out part of 2 units: the sets of two and more come before the single ones.
        assert len(balanced.train[0:1]) == 1 and balanced.train[0] in (1, 9, 15, 18)
        assert len(balanced.train) <= 16 and len(balanced.validation) <= 2
        seen.add(balanced.train[0])
    assert len(seen) > 1, "the order of the sets is random"


def test_column() -> None:
    values = ["train", "Valid", "test", "train", "dev", "train"]
    parts, out = splits.column_split(values, [0, 1, 2, 2, 3, 1], "split")
    assert parts == splits.Parts([0], [1, 4], [2]) and out == 2  # rows 3 and 5 are molecules that are judged
    with pytest.raises(ValueError, match="data.split_column='part': expected train"):
        splits.column_split(["train", "fold1"], [0, 1], "part")
