"""Sliding windows: tiles of queries give what a window of its own gives every token."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unitrans.nn import neighbourhood_bias
from unitrans.nn.bias import num_offsets
from unitrans.ops import Plan, attention

HEADS, DIM = 2, 8


def window(place: int, length: int, size: int, dilation: int, edges: str) -> list[int]:
    """What a token sees along one axis, written down from the definitions."""
    if edges == "cut":
        around = [place + dilation * k for k in range(-(size // 2), size // 2 + 1)]
        return [p for p in around if 0 <= p < length]
    line = list(
        range(place % dilation, length, dilation)
    )  # NATTEN: the window of this size whose middle is nearest
    first = min(max(line.index(place) - size // 2, 0), len(line) - size)
    return line[first : first + size]


def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    grid: list[int],
    size: list[int],
    dilation: list[int],
    edges: str,
) -> Tensor:
    """Every pair of the grid, the hidden ones at -inf."""
    places = list(itertools.product(*map(range, grid)))
    rows = {place: row for row, place in enumerate(places)}
    bias = torch.full((HEADS, len(places), len(places)), -torch.inf, dtype=table.dtype)
    for row, place in enumerate(places):
        seen = [window(*about, edges) for about in zip(place, grid, size, dilation, strict=True)]
        for other in itertools.product(*seen):
            number = 0
            for mine, its, n, d in zip(place, other, size, dilation, strict=True):
                number = number * (2 * n - 1) + (mine - its) // d + n - 1
            bias[:, row, rows[other]] = table[number]
    scores = torch.einsum("qnd,knd->nqk", q, k) / DIM**0.5 + bias
    return torch.einsum("nqk,knd->qnd", scores.softmax(-1), v)


def compare(grid: list[int], size: list[int], dilation: list[int], edges: Any, tile: list[int]) -> None:
    torch.manual_seed(0)
    tokens = int(torch.tensor(grid).prod())
    q, k, v = (torch.randn(tokens, HEADS, DIM, dtype=torch.float64, requires_grad=True) for _ in range(3))
    table = torch.randn(num_offsets(size), HEADS, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {"dilation": dilation, "edges": edges, "tile": tile}
    plan, bias = Plan.neighbourhoods(grid, size, **options), neighbourhood_bias(table, grid, size, **options)
    plan.check()
    assert bias.shape == (HEADS, plan.bias_size)
    got = attention(q, k, v, plan, bias=bias)
    want = dense(q, k, v, table, grid, size, dilation, edges)
    assert isinstance(got, Tensor)
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v, table)) for out in (got, want)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_tiles_equal_a_window_for_every_token(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    edges = data.draw(st.sampled_from(["cut", "inward"]))
    size = [data.draw(st.sampled_from([1, 3, 5] if axes < 3 else [1, 3])) for _ in range(axes)]
    dilation = [data.draw(st.integers(1, 2)) for _ in range(axes)]
    least = [k * d if edges == "inward" else 1 for k, d in zip(size, dilation, strict=True)]
    grid = [n + data.draw(st.integers(0, 9 // axes)) for n in least]
    tile = [data.draw(st.integers(1, 5)) for _ in range(axes)]
    compare(grid, size, dilation, edges, tile)


@pytest.mark.parametrize("edges", ["cut", "inward"])
def test_a_map_of_swin_with_windows_of_seven(edges: str) -> None:
    compare([14, 9], [7, 7], [1, 1], edges, [4, 4])


def test_what_tiles_cost() -> None:
    plan = Plan.neighbourhoods((56, 56), 7)
    assert plan.key_cu_seqlens is not None
    pairs = (plan.cu_seqlens.diff() * plan.key_cu_seqlens.diff()).sum()
    assert plan.num_groups == 14 * 14 and plan.bias_size == 16 * 100
    assert pairs < 2.1 * 56 * 56 * 49  # 16 x 100 pairs for 16 x 49 that are seen
    assert plan.repeat(3).num_tokens == 3 * 56 * 56
    inward = Plan.neighbourhoods((56, 56), 7, edges="inward")
    assert inward.bias_size == 9 * 16 * 256  # tiles at the borders have patterns of their own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), 4), "kernel_size: expected odd sizes"),
        (((8, 8), 0), "kernel_size: expected at least 1"),
        (((8, 0), 3), "grid: expected at least 1 token"),
        (((8, 8), (3, 3, 3)), "kernel_size: expected one integer for each of 2 axes"),
        (((8, 5), 7, "inward"), "at least kernel_size . dilation = 7 tokens along each axis, got 5"),
        (((8, 8), 3, "wrap"), "edges: expected one of 'cut', 'inward', got 'wrap'"),
    ],
)
def test_what_is_no_neighbourhood(arguments: tuple[Any, ...], message: str) -> None:
    grid, size, *edges = arguments
    with pytest.raises(ValueError, match=message):
        Plan.neighbourhoods(grid, size, edges=edges[0] if edges else "cut")
    with pytest.raises(ValueError, match=r"table: expected \[25, N\], got \[9, 2\]"):
        neighbourhood_bias(torch.zeros(9, 2), (8, 8), 3)
