"""Tables, orders and masks of the official codes, entry by entry (case 00_indices)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unitrans.models.resize import fit_shape, resize_bias_table
from unitrans.models.swin.plans import merge_map, windows_of
from unitrans.nn.bias import log_spaced_offsets, relative_position_index
from unitrans.objectives.mim import unit_mask


@pytest.fixture
def recorded(golden: Callable[..., Any]) -> dict[str, Tensor]:
    return golden("00_indices").expected


@pytest.mark.parametrize(
    ("name", "sides", "cls_token"),
    [(f"v1_index_{h}x{w}", (h, w), False) for h, w in ((7, 7), (8, 8), (4, 4), (2, 3), (4, 6))]
    + [
        ("beit_index_4x4", (4, 4), True),
        ("beit_index_4x6", (4, 6), True),
        ("video_index_2x3x4", (2, 3, 4), False),
    ],
)
def test_relative_position_index(recorded: dict[str, Tensor], name: str, sides: Any, cls_token: bool) -> None:
    assert torch.equal(relative_position_index(sides, cls_token), recorded[name].long())


@pytest.mark.parametrize(
    ("window", "trained"),
    [((8, 8), (0, 0)), ((8, 8), (6, 4)), ((16, 16), (8, 8)), ((4, 6), (0, 0)), ((7, 7), (12, 12))],
)
def test_offsets_of_v2(
    recorded: dict[str, Tensor], window: tuple[int, int], trained: tuple[int, int]
) -> None:
    want = recorded["v2_coords_{}x{}_pre{}x{}".format(*window, *trained)].flatten(0, 2)
    torch.testing.assert_close(log_spaced_offsets(window, trained).float(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "window", "shift"), [((14, 14), 7, 3), ((16, 16), 8, 4), ((8, 12), 4, 2), ((8, 8), 4, 1)]
)
def test_groups_are_the_regions_of_the_shift_mask(
    recorded: dict[str, Tensor], grid: tuple[int, int], window: int, shift: int
) -> None:
    """Who may look at whom, for every pair of tokens of the map."""
    mask = recorded["attn_mask_{}x{}_w{}_s{}".format(*grid, window, shift)]
    order = torch.arange(grid[0] * grid[1]).view(grid).roll((-shift, -shift), (0, 1))
    tiles = (
        order.view(grid[0] // window, window, grid[1] // window, window)
        .transpose(1, 2)
        .flatten(0, 1)
        .flatten(1)
    )
    want = torch.zeros(order.numel(), order.numel(), dtype=torch.bool)
    for tokens, blocked in zip(tiles, mask, strict=True):
        want[tokens[:, None], tokens[None, :]] = blocked == 0
    plan, _ = windows_of(grid, (window, window), (shift, shift), "none")
    got = torch.zeros_like(want)
    for first, last in zip(plan.cu_seqlens[:-1].tolist(), plan.cu_seqlens[1:].tolist(), strict=True):
        tokens = plan.token_index[first:last].long()
        got[tokens[:, None], tokens[None, :]] = True
    assert torch.equal(got, want)


def test_tokens_are_listed_in_the_order_of_the_partition(recorded: dict[str, Tensor]) -> None:
    plan, _ = windows_of((8, 12), (4, 4), (0, 0), "none")
    one = recorded["partition_8x12_w4"].flatten()[:96]
    assert torch.equal(
        plan.token_index.long() if plan.token_index is not None else torch.arange(96), one.long()
    )


def test_order_of_merging(recorded: dict[str, Tensor]) -> None:
    assert torch.equal(merge_map((4, 4)).index.view(4, 4), recorded["merging_order_4x4"][0].long())


@pytest.mark.parametrize(
    ("rule", "name"),
    [("bicubic", "resize_bicubic"), ("geometric", "resize_geometric"), ("geometric-linear", "resize_timm")],
)
def test_tables_are_resized_as_their_code_base_does(
    recorded: dict[str, Tensor], rule: Any, name: str
) -> None:
    table, want = recorded["resize_bicubic.table_w7"], recorded[f"{name}.table_w12"]
    torch.testing.assert_close(resize_bias_table(table, 13, 23, rule), want, rtol=0, atol=1e-5)
    extra = torch.full((3, 2), 7.0)  # rows of a class token stay
    fitted = fit_shape("relative_position_bias_table", torch.cat([table, extra]), torch.Size([532, 2]), rule)
    torch.testing.assert_close(fitted, torch.cat([want, extra]), rtol=0, atol=1e-5)


def test_absolute_positions_are_resized(recorded: dict[str, Tensor]) -> None:
    small, want = recorded["resize_bicubic.ape_7x7"], recorded["resize_bicubic.ape_12x12"]
    torch.testing.assert_close(fit_shape("absolute_pos_embed", small, want.shape), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("seed", "size", "unit", "patch", "ratio"),
    [(0, 192, 32, 4, 0.6), (1, 192, 32, 16, 0.6), (2, 64, 16, 4, 0.5)],
)
def test_masks_of_simmim(
    recorded: dict[str, Tensor], seed: int, size: int, unit: int, patch: int, ratio: float
) -> None:
    """The same permutations of NumPy's old generator give the same masks."""
    rng: Any = np.random.RandomState(seed)
    masks = [unit_mask((size // patch, size // patch), unit // patch, ratio, rng) for _ in range(2)]
    assert np.array_equal(np.stack(masks), recorded[f"simmim_mask_seed{seed}"].bool().numpy())
