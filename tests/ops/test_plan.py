"""Plans against definitions written in plain Python, and against the cyclic shift with a region mask."""

import doctest
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from unitrans import Plan
from unitrans.ops import plan as plan_module

INDICES = Path(__file__).parents[3] / "shared/golden/00_indices/io.safetensors"

axis = st.integers(1, 3).flatmap(lambda w: st.tuples(st.integers(1, 9), st.just(w), st.integers(0, w - 1)))
geometries = st.lists(axis, min_size=1, max_size=3).map(lambda axes: tuple(zip(*axes, strict=True)))
divisible_axis = st.integers(1, 3).flatmap(
    lambda w: st.tuples(st.integers(1, 3).map(lambda k: k * w), st.just(w), st.integers(0, w - 1))
)
divisible_geometries = st.lists(divisible_axis, min_size=1, max_size=3).map(
    lambda axes: tuple(zip(*axes, strict=True))
)
flat_ids = st.lists(st.integers(-1, 4), max_size=30)


def groups_of(plan: Plan, side: str = "") -> list[list[int]]:
    """The token list of every group, written out."""
    cu = getattr(plan, side + "cu_seqlens").tolist()
    index = getattr(plan, side + "token_index")
    rows = plan.num_tokens if side == "" else plan.num_keys
    tokens = list(range(rows or 0)) if index is None else index.tolist()
    return [tokens[start:end] for start, end in itertools.pairwise(cu)]


def places_of(plan: Plan) -> list[list[int]]:
    groups = groups_of(plan)
    if plan.position is None:
        return [list(range(len(group))) for group in groups]
    rest = iter(plan.position.tolist())
    return [[next(rest) for _ in group] for group in groups]


def bias_entries(plan: Plan) -> list[dict[tuple[int, int], int]]:
    """For each group, the bias entry of each pair of its tokens."""
    assert plan.bias_offset is not None and plan.bias_row_stride is not None
    addresses = zip(
        groups_of(plan),
        places_of(plan),
        plan.bias_offset.tolist(),
        plan.bias_row_stride.tolist(),
        strict=True,
    )
    return [
        {
            (i, j): offset + p * stride + r
            for i, p in zip(g, ps, strict=True)
            for j, r in zip(g, ps, strict=True)
        }
        if offset >= 0
        else {}
        for g, ps, offset, stride in addresses
    ]


def recheck(plan: Plan) -> Plan:
    """The plan built again by hand, so that the constructor checks it."""
    names = ("cu_seqlens", "num_tokens", "max_group_size", "token_index", "position", "bias_offset")
    names += ("bias_row_stride", "reach", "bias_size", "key_cu_seqlens", "key_token_index", "key_position")
    names += ("num_keys", "max_key_group_size")
    return Plan(**{name: getattr(plan, name) for name in names})


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


# ---------------------------------------------------------------- windows


@given(geometries)
def test_every_token_is_in_exactly_one_window(geometry: Any) -> None:
    grid, window, shift = geometry
    plan = recheck(Plan.windows(grid, window, shift))
    listed = sorted(itertools.chain(*groups_of(plan)))
    assert listed == list(range(int(np.prod(grid))))
    assert max(map(len, groups_of(plan))) <= plan.max_group_size == np.prod(window)
    assert plan.bias_size == int(np.prod(window)) ** 2


@given(geometries)
def test_windows_follow_their_definition(geometry: Any) -> None:
    grid, window, shift = geometry
    homes: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for token, at in enumerate(np.ndindex(*grid)):
        # The map is cut at the shift, then every window; the piece before the shift ends a window.
        moved = [i + w - s for i, w, s in zip(at, window, shift, strict=True)]
        key = tuple(m // w for m, w in zip(moved, window, strict=True))
        place = np.ravel_multi_index([m % w for m, w in zip(moved, window, strict=True)], window)
        homes.setdefault(key, []).append((token, int(place)))
    plan = Plan.windows(grid, window, shift)
    expected = [homes[key] for key in sorted(homes)]
    assert groups_of(plan) == [[token for token, _ in group] for group in expected]
    assert places_of(plan) == [[place for _, place in group] for group in expected]


def rolled_windows(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Cyclic shift, window partition and region mask of Swin (Liu et al. 2021, section 3.2), any rank.

    Returns tokens [windows, L] and allowed [windows, L, L].
    """
    axes = tuple(range(len(grid)))

    def partition(x: Tensor) -> Tensor:
        shape = [size for n, w in zip(grid, window, strict=True) for size in (n // w, w)]
        order = [2 * a for a in axes] + [2 * a + 1 for a in axes]
        return x.reshape(shape).permute(order).reshape(-1, int(np.prod(window)))

    region = torch.zeros(grid, dtype=torch.int64)
    slices = [
        (slice(0, -w), slice(-w, -s), slice(-s, None)) if s else (slice(None),)
        for w, s in zip(window, shift, strict=True)
    ]
    for number, cut in enumerate(itertools.product(*slices)):
        region[cut] = number
    tokens = torch.arange(int(np.prod(grid))).reshape(grid)
    rolled = partition(torch.roll(tokens, [-s for s in shift], axes))
    regions = partition(region)
    return rolled, regions[:, :, None] == regions[:, None, :]


@given(divisible_geometries)
def test_windows_equal_the_cyclic_shift_with_a_region_mask(geometry: Any) -> None:
    grid, window, shift = geometry
    tokens, allowed = rolled_windows(*geometry)
    places = int(np.prod(window))
    official = {
        (int(row[i]), int(row[j])): i * places + j
        for row, pairs in zip(tokens, allowed, strict=True)
        for i, j in pairs.nonzero().tolist()
    }
    ours: dict[tuple[int, int], int] = {}
    for entries in bias_entries(Plan.windows(grid, window, shift)):
        ours |= entries
    assert ours == official


@pytest.mark.skipif(not INDICES.exists(), reason=f"no reference numbers at {INDICES}")
@pytest.mark.parametrize(
    ("name", "grid", "window", "shift"),
    [
        ("attn_mask_14x14_w7_s3", (14, 14), (7, 7), (3, 3)),
        ("attn_mask_16x16_w8_s4", (16, 16), (8, 8), (4, 4)),
        ("attn_mask_8x12_w4_s2", (8, 12), (4, 4), (2, 2)),
        ("attn_mask_8x8_w4_s1", (8, 8), (4, 4), (1, 1)),
        ("video_mask_D4H6W8_w2x3x4_s1x1x2", (4, 6, 8), (2, 3, 4), (1, 1, 2)),
    ],
)
def test_windows_equal_published_masks(name: str, grid: Any, window: Any, shift: Any) -> None:
    with safe_open(INDICES, "pt") as file:
        mask = file.get_tensor(name)
    tokens, _ = rolled_windows(grid, window, shift)
    plan = Plan.windows(grid, window, shift)
    group_of = torch.empty(plan.num_tokens, dtype=torch.int64)
    for number, group in enumerate(groups_of(plan)):
        group_of[group] = number
    same_group = group_of[tokens][:, :, None] == group_of[tokens][:, None, :]
    assert torch.equal(same_group, mask == 0)


@pytest.mark.skipif(not INDICES.exists(), reason=f"no reference numbers at {INDICES}")
@pytest.mark.parametrize(("name", "shift"), [("partition_8x12_w4", 0), ("partition_8x12_w4_shift2", 2)])
def test_places_equal_the_published_order(name: str, shift: int) -> None:
    with safe_open(INDICES, "pt") as file:
        official = file.get_tensor(name).long().reshape(12, 16)  # two images of 6 windows
    plan = Plan.windows((8, 12), 4, shift).repeat(2)
    window_of, place_of = {}, {}
    for window, row in enumerate(official.tolist()):
        for place, token in enumerate(row):
            window_of[token], place_of[token] = window, place
    for group, places in zip(groups_of(plan), places_of(plan), strict=True):
        assert len({window_of[token] for token in group}) == 1
        assert [place_of[token] for token in group] == places


@given(geometries, st.integers(1, 3), st.randoms(use_true_random=False))
def test_visible_windows_are_the_full_plan_restricted(geometry: Any, batch: int, random: Any) -> None:
    grid, window, shift = geometry
    num_tokens = int(np.prod(grid))
    visible = np.array([random.random() < 0.4 for _ in range(batch * num_tokens)])
    rank = np.cumsum(visible) - 1
    full = Plan.windows(grid, window, shift).repeat(batch)
    expected = [
        [(int(rank[t]), p) for t, p in zip(group, places, strict=True) if visible[t]]
        for group, places in zip(groups_of(full), places_of(full), strict=True)
    ]
    expected = [group for group in expected if group]
    plan = recheck(Plan.visible_windows(visible.reshape(batch, *grid), window, shift))
    assert groups_of(plan) == [[token for token, _ in group] for group in expected]
    assert places_of(plan) == [[place for _, place in group] for group in expected]
    assert (plan.num_tokens, plan.bias_size) == (int(visible.sum()), full.bias_size)


# ---------------------------------------------------------------- lengths, segments, padding, cross


@given(st.lists(st.integers(0, 6), max_size=12))
def test_lengths(lengths: list[int]) -> None:
    plan = recheck(Plan.from_lengths(lengths, bias="ragged", reach=(-1, 0)))
    rest = iter(range(sum(lengths)))
    assert groups_of(plan) == [[next(rest) for _ in range(n)] for n in lengths]
    entries = sorted(itertools.chain(*(group.values() for group in bias_entries(plan))))
    assert entries == list(range(plan.bias_size)) and plan.bias_size == sum(n * n for n in lengths)
    assert plan.reach is not None and plan.reach.tolist() == [[-1, 0]] * len(lengths)


@given(flat_ids)
def test_segment_ids(ids: list[int]) -> None:
    order = [i for i in dict.fromkeys(ids) if i >= 0]
    plan = recheck(Plan.from_segment_ids(ids))
    assert groups_of(plan) == [[t for t, other in enumerate(ids) if other == i] for i in order]
    assert plan.num_tokens == len(ids)


@given(
    st.integers(1, 6).flatmap(
        lambda s: st.lists(st.lists(st.integers(-1, 2), min_size=s, max_size=s), min_size=1, max_size=5)
    )
)
def test_segment_ids_of_different_rows_never_mix(rows: list[list[int]]) -> None:
    ids = np.array(rows, dtype=np.int64)
    flat = [-1 if i < 0 else row * 100 + i for row, line in enumerate(rows) for i in line]
    assert groups_of(Plan.from_segment_ids(ids)) == groups_of(Plan.from_segment_ids(flat))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_padding_mask(padding: list[list[bool]]) -> None:
    plan = recheck(Plan.from_padding_mask(padding, bias=4))
    assert groups_of(plan) == [[4 * b + s for s in range(4) if not row[s]] for b, row in enumerate(padding)]
    assert (plan.num_tokens, plan.bias_size) == (4 * len(padding), 16)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_cross_with_ragged_planes(pairs: list[tuple[int, int]]) -> None:
    num_queries, num_keys = ([pair[i] for pair in pairs] for i in (0, 1))
    queries, keys = Plan.from_lengths(num_queries), Plan.from_lengths(num_keys)
    plan = recheck(Plan.cross(queries, keys, bias="ragged", reach=(2, -1)))
    assert groups_of(plan) == groups_of(queries) and groups_of(plan, "key_") == groups_of(keys)
    assert (plan.num_tokens, plan.num_keys) == (sum(num_queries), sum(num_keys))
    assert plan.bias_offset is not None and plan.bias_row_stride is not None
    sizes = [q * k for q, k in pairs]
    assert plan.bias_offset.tolist() == [sum(sizes[:g]) for g in range(len(pairs))]
    assert plan.bias_row_stride.tolist() == num_keys and plan.bias_size == sum(sizes)


def test_cross_with_a_shared_plane_reads_by_position() -> None:
    queries = Plan.visible_windows([[[True, False], [False, True]]], 2)  # places 0 and 3
    keys = Plan.windows((2, 2), 2)
    plan = recheck(Plan.cross(queries, keys, bias=4))
    assert plan.position is not None and plan.position.tolist() == [0, 3]
    assert plan.key_position is not None and plan.key_position.tolist() == [0, 1, 2, 3]
    assert plan.bias_size == 16


def test_keys_may_be_listed_in_several_groups() -> None:
    plan = Plan(
        int32(0, 1, 2),
        num_tokens=2,
        max_group_size=1,
        key_cu_seqlens=int32(0, 2, 4),
        key_token_index=int32(0, 1, 1, 2),
        num_keys=3,
        max_key_group_size=2,
    )
    assert groups_of(plan, "key_") == [[0, 1], [1, 2]]


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_lists_arrays_and_tensors_are_the_same_input(kind: Any) -> None:
    assert groups_of(Plan.from_lengths(kind([2, 3]))) == [[0, 1], [2, 3, 4]]
    assert groups_of(Plan.from_segment_ids(kind([[0, 0], [0, 1]]))) == [[0, 1], [2], [3]]
    assert groups_of(Plan.from_padding_mask(kind([[False, True]]))) == [[0]]
    assert groups_of(Plan.visible_windows(kind([[[True, False]]]), 2)) == [[0]]


# ---------------------------------------------------------------- transforms


def some_plans() -> dict[str, Plan]:
    cross = Plan.cross(Plan.from_segment_ids([0, 1, 0]), Plan.from_lengths([2, 3]), bias="ragged")
    return {
        "lengths": Plan.from_lengths([3, 0, 2]),
        "causal": Plan.from_lengths([4, 1], reach=(-1, 0), bias=6),
        "segments": Plan.from_segment_ids([1, -1, 0, 1], bias="ragged"),
        "windows": Plan.windows((5, 7), (2, 3), (1, 1)),
        "visible": Plan.visible_windows(np.arange(12).reshape(1, 3, 4) % 3 > 0, 2, 1),
        "cross": cross,
    }


def same(a: Plan, b: Plan) -> bool:
    """Equal up to lists that are written out in one and implied in the other."""
    if bool(a.reach is None) != bool(b.reach is None) or bool(a.bias_offset is None) != bool(
        b.bias_offset is None
    ):
        return False
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    if len(left) != len(right):
        return False
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("name", some_plans())
@pytest.mark.parametrize("n", [1, 3])
def test_repeat_equals_cat_of_copies(name: str, n: int) -> None:
    plan = some_plans()[name]
    repeated = recheck(plan.repeat(n))
    assert same(repeated, Plan.cat([plan] * n))
    sides = [("", plan.num_tokens)] + ([("key_", plan.num_keys)] if plan.num_keys is not None else [])
    for side, rows in sides:
        expected = [[t + i * rows for t in g] for i in range(n) for g in groups_of(plan, side)]
        assert groups_of(repeated, side) == expected
    assert places_of(repeated) == places_of(plan) * n


@given(st.lists(st.sampled_from(sorted(some_plans())), min_size=1, max_size=4))
def test_cat_equals_the_plans_one_by_one(names: list[str]) -> None:
    plans = [some_plans()[name] for name in names]
    whole = recheck(Plan.cat(plans, planes="concatenated"))
    rows = keys = bias = group = 0
    for plan in plans:
        part = slice(group, group + plan.num_groups)
        assert groups_of(whole)[part] == [[t + rows for t in g] for g in groups_of(plan)]
        assert places_of(whole)[part] == places_of(plan)
        if whole.key_cu_seqlens is not None:
            own = groups_of(plan, "key_" if plan.key_cu_seqlens is not None else "")
            assert groups_of(whole, "key_")[part] == [[t + keys for t in g] for g in own]
        if whole.bias_offset is not None and whole.bias_row_stride is not None:
            has_bias = plan.bias_offset is not None
            offsets = [o + bias for o in plan.bias_offset.tolist()] if has_bias else [-1] * plan.num_groups
            assert whole.bias_offset[part].tolist() == offsets
        if whole.reach is not None:
            own_reach = [[-1, -1]] * plan.num_groups if plan.reach is None else plan.reach.tolist()
            assert whole.reach[part].tolist() == own_reach
        rows, group = rows + plan.num_tokens, group + plan.num_groups
        keys += plan.num_tokens if plan.num_keys is None else plan.num_keys
        bias += plan.bias_size
    assert (whole.num_tokens, whole.num_groups, whole.bias_size) == (rows, group, bias)
    assert whole.max_group_size == max(plan.max_group_size for plan in plans)


def test_windows_of_different_maps_share_one_plane() -> None:
    plan = Plan.cat([Plan.windows((5, 7), 3, 1), Plan.windows((4, 4), 3, 1)])
    assert plan.bias_size == 81 and plan.bias_offset is not None and not plan.bias_offset.any()
    with pytest.raises(ValueError, match=r"equal bias sizes, got \[16, 81\].*concatenated"):
        Plan.cat([Plan.windows((5, 7), 3), Plan.windows((5, 7), 2)])


def test_with_reach_and_to() -> None:
    plan = Plan.from_lengths([2, 1]).with_reach(1, -1).to("cpu")
    assert plan.reach is not None and plan.reach.tolist() == [[1, -1], [1, -1]]
    per_group = Plan.from_lengths([2, 1], reach=np.array([[-1, 0], [3, 3]]))
    assert per_group.reach is not None and per_group.reach.tolist() == [[-1, 0], [3, 3]]


@pytest.mark.parametrize("name", some_plans())
def test_pickle_and_pytree_round_trips(name: str) -> None:
    plan = some_plans()[name]
    assert same(pickle.loads(pickle.dumps(plan)), plan)
    leaves, spec = pytree.tree_flatten(plan)
    assert same(pytree.tree_unflatten(leaves, spec), plan)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


# ---------------------------------------------------------------- tracing


class Reads(torch.nn.Module):
    def forward(self, x: Tensor, plan: Plan) -> tuple[Tensor, Plan]:
        assert plan.token_index is not None
        both = Plan.cat([plan, plan.repeat(2)])
        return x[plan.token_index.long()] * plan.num_tokens + plan.bias_size, both


def batch(n: int) -> tuple[Tensor, Plan]:
    plan = Plan.windows((6, 8), 4, 2).repeat(n)
    return torch.arange(plan.num_tokens, dtype=torch.float32), plan


def test_compile_sees_integers_as_symbols() -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph

    module = Reads()
    compiled = torch.compile(module, backend=count, fullgraph=True)
    for n in (2, 3, 5, 4, 9):
        (x, whole), (expected, plan) = compiled(*batch(n)), module(*batch(n))
        assert torch.equal(x, expected) and same(whole, plan)
    assert len(graphs) <= 2  # the first, and one with symbols


def test_export_with_any_batch_size(tmp_path: Path) -> None:
    x, plan = batch(2)
    any_size = [
        {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, Tensor) else torch.export.Dim.DYNAMIC
        for leaf in pytree.tree_leaves(plan)
    ]
    program = torch.export.export(
        Reads(), (x, plan), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}, "plan": any_size}
    )
    torch.export.save(program, tmp_path / "plan.pt2")
    out, whole = torch.export.load(tmp_path / "plan.pt2").module()(*batch(5))
    expected, expected_plan = Reads()(*batch(5))
    assert torch.equal(out, expected) and same(whole, expected_plan)


def test_fake_tensors() -> None:
    plan = Plan.windows((6, 8), 4, 2)
    with FakeTensorMode() as mode:
        fake = pytree.tree_map_only(Tensor, mode.from_tensor, plan)
        seen = [repr(fake.repeat(3)), repr(Plan.cat([fake, fake])), repr(recheck(fake))]
    assert seen == [repr(plan.repeat(3)), repr(plan.repeat(2)), repr(plan)]


# ---------------------------------------------------------------- what is refused

GOOD: dict[str, Any] = {
    "cu_seqlens": int32(0, 2, 3),
    "num_tokens": 4,
    "max_group_size": 2,
    "token_index": int32(3, 1, 0),
}
BIAS: dict[str, Any] = {"bias_offset": torch.tensor([0, 4]), "bias_row_stride": int32(2, 1)}
KEYS: dict[str, Any] = {"key_cu_seqlens": int32(0, 1, 2), "num_keys": 2, "max_key_group_size": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cu_seqlens": [0, 2, 3]}, r"cu_seqlens: expected an int32 tensor \[G \+ 1\], got \[0, 2, 3\]"),
        (
            {"cu_seqlens": torch.tensor([0, 2, 3])},
            r"cu_seqlens: expected torch.int32 \[3\], got torch.int64 \[3\]",
        ),
        ({"cu_seqlens": int32(1, 2, 3)}, "cu_seqlens must start at 0, got 1"),
        ({"cu_seqlens": int32(0, 4, 3)}, "cu_seqlens must not fall, got 4 then 3"),
        ({"cu_seqlens": int32(0, 1, 2)}, "cu_seqlens must end at the 3 listed tokens, got 2"),
        ({"token_index": int32(3, 1, 4)}, r"token_index must be in \[0, 4\), got 4"),
        ({"token_index": int32(3, 1, -1)}, r"token_index must be in \[0, 4\), got -1"),
        ({"token_index": int32(3, 1, 3)}, "token_index may list a query once only, got 3 twice"),
        ({"token_index": None}, "cu_seqlens must end at the 4 listed tokens, got 3"),
        ({"token_index": torch.tensor([3, 1, 0])}, r"token_index: expected torch.int32 \[3\]"),
        ({"position": int32(0, 1)}, r"position: expected torch.int32 \[3\], got torch.int32 \[2\]"),
        ({"position": int32(1, 0, 0)}, "position must be strictly ascending inside a group, got 1 then 0"),
        ({"position": int32(1, 1, 0)}, "position must be strictly ascending"),
        ({"position": int32(-1, 1, 0)}, "position must be at least 0, got -1"),
        ({"max_group_size": 1}, "max_group_size: expected at least 2, the largest group, got 1"),
        ({"num_tokens": -1, "token_index": int32(), "cu_seqlens": int32(0, 0, 0)}, "num_tokens must be in"),
        ({"reach": int32(-1, 0)}, r"reach: expected torch.int32 \[2, 2\], got torch.int32 \[2\]"),
        ({"reach": int32(-2, 0, 0, 0).reshape(2, 2)}, "reach: expected -1 .unlimited. or more, got -2"),
        ({"bias_size": 4}, "bias_size: expected 0 without bias_offset, got 4"),
        ({"bias_offset": BIAS["bias_offset"]}, "bias_offset and bias_row_stride: expected both or neither"),
        (BIAS | {"bias_size": 4}, "bias_size must hold every addressed entry: group 1 needs 5, got 4"),
        (BIAS | {"bias_offset": torch.tensor([0, -2])}, "bias_offset must be at least 0, or -1"),
        (BIAS | {"bias_row_stride": int32(1, 1)}, "bias_row_stride must exceed every key position"),
        (BIAS | {"bias_offset": int32(0, 4)}, r"bias_offset: expected torch.int64 \[2\], got torch.int32"),
        (
            BIAS | {"bias_offset": torch.zeros(2, dtype=torch.int64, device="meta")},
            "expected on cpu .*, got meta",
        ),
        ({"num_keys": 3}, "num_keys: expected None without key_cu_seqlens"),
        ({"key_position": int32(0)}, "key_position: expected None without key_cu_seqlens"),
        (KEYS | {"num_keys": None}, "num_keys: expected an integer with key_cu_seqlens, got None"),
        (
            KEYS | {"key_cu_seqlens": int32(0, 2)},
            r"key_cu_seqlens: expected torch.int32 \[3\], got torch.int32 \[2\]",
        ),
        (KEYS | {"key_token_index": int32(0, 2)}, r"key_token_index must be in \[0, 2\), got 2"),
        (KEYS | {"max_key_group_size": 0}, "max_key_group_size: expected at least 1"),
        (KEYS | {"key_position": int32(0, -1)}, "key_position must be at least 0"),
    ],
)
def test_bad_lists_are_refused(changes: dict[str, Any], message: str) -> None:
    Plan(**GOOD)  # the lists that the case spoils
    with pytest.raises(ValueError, match=message):
        Plan(**(GOOD | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan.from_lengths([2, -1]), "lengths must be at least 0, got -1 for group 1"),
        (lambda: Plan.from_lengths([2.0]), "lengths: expected integers, got float64"),
        (lambda: Plan.from_lengths(torch.tensor([True])), "lengths: expected integers, got torch.bool"),
        (lambda: Plan.from_lengths([[2]]), r"lengths: expected 1 axes, got shape \(1, 1\)"),
        (lambda: Plan.from_lengths([2**31]), "at most 2147483647 tokens"),
        (lambda: Plan.from_lengths([3], bias=2), "bias: expected rows that hold every place, 3, got 2"),
        (lambda: Plan.from_lengths([3], bias="dense"), "bias: expected None, 'ragged' or the row length"),
        (lambda: Plan.from_lengths([3], reach=(-2, 0)), "reach: expected -1 .unlimited. or more"),
        (
            lambda: Plan.from_lengths([3], reach=np.zeros((2, 2), int)),
            r"reach: expected \(left, right\) or \[1, 2\]",
        ),
        (lambda: Plan.from_segment_ids(np.zeros((1, 2, 3), int)), "segment_ids: expected 1 or 2 axes"),
        (
            lambda: Plan.from_padding_mask(np.ones((2, 3), int)),
            "key_padding_mask: expected bool .True = padding.",
        ),
        (lambda: Plan.from_padding_mask(np.ones(3, bool)), r"key_padding_mask: expected \[B, S\]"),
        (lambda: Plan.windows((4, 4), 2, 2), r"shift_size must be in \[0, window_size\) on axis 1, got 2"),
        (lambda: Plan.windows((4, 0), 2), "grid must be at least 1 on axis 1, got 0"),
        (lambda: Plan.windows((4, 4), (2, 2, 2)), "window_size: expected one integer for each of 2 axes"),
        (lambda: Plan.windows((4, 4), 2.5), "window_size: expected an integer or one for each axis, got 2.5"),  # type: ignore[arg-type]
        (lambda: Plan.visible_windows(np.ones(3, bool), 2), r"visible: expected \[B, \*grid\]"),
        (
            lambda: Plan.cross(Plan.from_lengths([1]), Plan.from_lengths([1, 1])),
            "same number of groups, got 1 and 2",
        ),
        (
            lambda: Plan.cross(some_plans()["cross"], Plan.from_lengths([1, 1])),
            "queries: expected a plan of one stream",
        ),
        (lambda: Plan.from_lengths([1]).repeat(0), "n: expected at least 1, got 0"),
        (lambda: Plan.from_lengths([2**20]).repeat(2**12), "at most 2147483647 tokens"),
        (lambda: Plan.cat([]), "plans: expected at least one plan"),
        (lambda: Plan.cat([Plan.from_lengths([1])], planes="both"), "planes: expected 'shared' or"),  # type: ignore[arg-type]
    ],
)
def test_bad_requests_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bias_size_is_computed_for_lists_made_by_hand() -> None:
    assert Plan(**GOOD, **BIAS).bias_size == 5
    assert Plan(**GOOD, **BIAS, bias_size=9).bias_size == 9


def test_examples_of_the_docstrings() -> None:
    result = doctest.testmod(plan_module)
    assert result.attempted >= 8 and result.failed == 0
