"""The sampler is a pure function of (seed, update, rank)."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitrans.training.random import derived_seed, sample_rng
from unitrans.training.sampler import MicroBatches, UpdateSampler, cut_by_tokens

sizes = st.integers(1, 60)
small = st.integers(1, 4)


def make(
    n: int, batch: int, accumulation: int, world: int, seed: int = 3, tokens: list[int] | None = None
) -> UpdateSampler:
    return UpdateSampler(
        n,
        per_device_batch_size=batch,
        accumulation_steps=accumulation,
        world_size=world,
        seed=seed,
        num_tokens=tokens,
    )


@given(n=sizes, batch=small, accumulation=small, world=small, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_sample_once_per_epoch(n: int, batch: int, accumulation: int, world: int, seed: int) -> None:
    sampler = make(n, batch, accumulation, world, seed)
    updates = -(-3 * n // sampler.global_batch_size)
    stream = [key for update in range(updates) for key in sampler.global_batch(update)]
    for epoch in range(3):
        assert sorted(index for e, index in stream if e == epoch) == list(range(n))
    assert [epoch for epoch, _ in stream] == sorted(epoch for epoch, _ in stream)
    assert sampler.epoch_at(updates) == pytest.approx(len(stream) / n)


@given(n=sizes, batch=small, accumulation=small, world=small, data=st.data())
@settings(max_examples=60, deadline=None)
def test_ranks_share_the_global_batch(
    n: int, batch: int, accumulation: int, world: int, data: st.DataObject
) -> None:
    tokens = data.draw(st.none() | st.lists(st.integers(1, 50), min_size=n, max_size=n))
    sampler = make(n, batch, accumulation, world, tokens=tokens)
    for update in (0, 1, 7):
        parts = [sampler.micro_batches(update, rank) for rank in range(world)]
        assert all(len(part) == accumulation for part in parts)
        assert all(micro for part in parts for micro in part)
        together = Counter(key for part in parts for micro in part for key in micro)
        assert together == Counter(sampler.global_batch(update))
        if tokens is None:
            assert {len(micro) for part in parts for micro in part} == {batch}


def test_the_order_depends_on_the_seed_and_not_on_the_processes() -> None:
    one, two = make(50, 8, 1, 1), make(50, 2, 2, 2)
    assert [one.global_batch(u) for u in range(10)] == [two.global_batch(u) for u in range(10)]
    assert one.global_batch(0) != make(50, 8, 1, 1, seed=4).global_batch(0)
    first, second = one.global_batch(0), one.global_batch(50 // 8 + 1)
    assert [index for _, index in first] != [index for _, index in second]


@given(start=st.integers(0, 9))
def test_a_restart_is_the_tail(start: int) -> None:
    sampler = make(23, 3, 2, 2)
    whole = list(MicroBatches(sampler, 1, 0, 10))
    tail = MicroBatches(sampler, 1, start, 10)
    assert list(tail) == whole[2 * start :]
    assert len(tail) == len(whole) - 2 * start


@given(tokens=st.lists(st.integers(1, 100), min_size=1, max_size=40), parts=st.integers(1, 6))
def test_cuts_are_balanced(tokens: list[int], parts: int) -> None:
    cut = cut_by_tokens(tokens, parts)
    assert sorted(sample for part in cut for sample in part) == list(range(len(tokens)))
    assert all(part == sorted(part) for part in cut)
    loads = [sum(tokens[sample] for sample in part) for part in cut]
    # Longest-first: the largest part exceeds the mean by at most one sample.
    assert max(loads) <= sum(tokens) / parts + max(tokens)
    if len(tokens) >= parts:
        assert all(cut)


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        make(0, 1, 1, 1)


def test_generators_are_functions_of_their_names() -> None:
    def draw(*names: object) -> list[int]:
        return sample_rng(*names).integers(0, 2**31, 4).tolist()  # type: ignore[arg-type]

    reference = draw(0, 0, "a", "mask")
    assert draw(0, 0, "a", "mask") == reference
    others = [
        (1, 0, "a", "mask"),
        (0, 1, "a", "mask"),
        (0, None, "a", "mask"),
        (0, 0, "b", "mask"),
        (0, 0, "a", "x"),
    ]
    assert all(draw(*names) != reference for names in others)
    assert draw(0, 0, "ab", "c") != draw(0, 0, "a", "bc")
    assert 0 <= derived_seed(0, "x") < 2**63
    assert derived_seed(0, "x", 1) != derived_seed(0, "x", 11)


def test_balanced_epochs_share_among_classes() -> None:
    classes = [0] * 3 + [1] * 40 + [2] * 17
    sampler = UpdateSampler(60, per_device_batch_size=4, seed=3, classes=classes)
    keys = [key for update in range(45) for key in sampler.global_batch(update)]  # three epochs
    for epoch in range(3):
        seen = Counter(classes[index] for _, index in keys[60 * epoch : 60 * epoch + 60])
        assert seen == {0: 20, 1: 20, 2: 20}
        assert (
            max(Counter(index for _, index in keys[60 * epoch : 60 * epoch + 60] if classes[index]).values())
            <= 2
        )
    assert len(set(keys)) == len(keys)  # what comes back is drawn anew
    assert {index for _, index in keys if classes[index] == 0} == {0, 1, 2}
    assert keys[:60] != [(turn - keys[0][0], index) for turn, index in keys[60:120]]


@given(classes=st.lists(st.integers(0, 4), min_size=1, max_size=40), accumulation=small, world=small)
@settings(max_examples=30, deadline=None)
def test_balanced_order_is_a_function_of_seed_and_update(
    classes: list[int], accumulation: int, world: int
) -> None:
    def make_balanced(seed: int, *cut: int) -> UpdateSampler:
        return UpdateSampler(
            len(classes), per_device_batch_size=cut[0], accumulation_steps=cut[1], world_size=cut[2], seed=seed,
            classes=classes,
        )  # fmt: skip

    whole = make_balanced(1, 2 * accumulation * world, 1, 1)
    parts = make_balanced(1, 2, accumulation, world)
    expected = [whole.global_batch(update) for update in range(12)]
    for update in (11, 3, 4, 0):  # in any order: nothing is replayed
        cut = [key for rank in range(world) for micro in parts.micro_batches(update, rank) for key in micro]
        assert sorted(cut) == sorted(expected[update])
        assert make_balanced(1, 2, accumulation, world).global_batch(update) == expected[update]
    counts = Counter(classes[index] for update in expected for _, index in update)
    epochs = 12 * len(expected[0]) / len(classes)
    share = len(classes) / len(set(classes))
    assert all(abs(count - epochs * share) <= epochs + share + 1 for count in counts.values())
