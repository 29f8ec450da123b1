"""The held-out samples are a stable function of the names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitrans.data.splits import hash_fraction, split, units_of

names = st.lists(st.text("abcde/01", min_size=1, max_size=8), min_size=2, max_size=60, unique=True)
fractions = st.floats(0.01, 0.99)


def test_hash_is_what_it_was():
    """Other numbers would move images between training and validation of runs people have made."""
    assert hash_fraction("digits/0000") == 0.2701382001457081
    assert hash_fraction("a/b.png") == 0.41667131648042843


@given(names, fractions)
def test_both_sides_are_never_empty_and_cover_all(ids, fraction):
    train, held_out = split(ids, fraction)
    assert train and held_out
    assert sorted(train + held_out) == list(range(len(ids)))
    assert train == sorted(train) and held_out == sorted(held_out)


@given(names, fractions, st.data())
def test_adding_files_moves_no_other(ids, fraction, data):
    """Where the hash decides (no side would be empty), a sample's side does not depend on the others."""
    fewer = data.draw(st.lists(st.sampled_from(ids), min_size=2, unique=True))

    def held_out(names):
        return {names[i] for i in split(names, fraction)[1]}

    def decided_by_hash(names):
        return len({hash_fraction(name) < fraction for name in names}) == 2

    if decided_by_hash(fewer):
        assert held_out(fewer) == held_out(ids) & set(fewer)


@given(names, fractions, st.randoms())
def test_order_does_not_matter(ids, fraction, random):
    shuffled = list(ids)
    random.shuffle(shuffled)
    assert {ids[i] for i in split(ids, fraction)[1]} == {shuffled[i] for i in split(shuffled, fraction)[1]}


@given(st.lists(st.integers(0, 20), min_size=2, max_size=80), fractions)
def test_groups_never_straddle(patients, fraction):
    ids = [f"p{patient}/scan{i}.png" for i, patient in enumerate(patients)]
    if len(set(patients)) < 2:
        with pytest.raises(ValueError, match="only one unit"):
            split(ids, fraction, "parent")
        return
    for rule in ("parent", r"^(p\d+)/"):
        train, held_out = split(ids, fraction, rule)
        assert train and held_out
        assert not {patients[i] for i in train} & {patients[i] for i in held_out}


def test_fraction_is_about_met():
    held_out = split([f"image{i}.jpg" for i in range(20_000)], 0.05)[1]
    assert 900 < len(held_out) < 1100  # 1000 expected, standard deviation 31


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (None, ["a/x1.png", "a/b/y2.png", "z3.png"]),
        ("parent", ["a", "a/b", ""]),
        (r"(\d)\.png", ["1", "2", "3"]),
    ],
)
def test_units(group, expected):
    assert units_of(["a/x1.png", "a/b/y2.png", "z3.png"], group) == expected


@pytest.mark.parametrize(
    ("ids", "group", "words"),
    [
        (["one"], None, "only one sample.*data.validation=none"),
        (["a/1", "a/2"], "parent", "only one unit under data.group='parent'.*change data.group"),
        (["a", "b"], "(", "neither .* nor a regular expression"),
        (["a", "b"], "a+", "has no group: put the part"),
        (["p1", "q2"], "p(1)", "does not match the id 'q2'"),
        (["p1", "p"], "p(1)?", "does not match the id 'p'"),
    ],
)
def test_mistakes_are_told(ids, group, words):
    with pytest.raises(ValueError, match=words) as error:
        split(ids, 0.5, group)
    assert "\n" not in str(error.value)
