"""The groups of a Swin forward: integers only, cheap enough for a loader worker, cached per image geometry.

Shape letters: T_s tokens of stage s, B images, S stages.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.models.whole import Grid, WholePlans, cat_maps, kept_rows, stacked
from unitrans.nn.rows import RowMap
from unitrans.ops import Plan
from unitrans.ops.movable import Movable

PadMode = Literal["none", "pad_then_roll", "roll_then_pad"]
WindowClamp = Literal["min", "per_axis", "per_axis_floor", "padded", "never"]


class StageWindow(NamedTuple):
    """The window of a stage, its shift in odd blocks, and the rule by which small maps are not shifted."""

    size: Grid
    shift: Grid
    clamp: WindowClamp

    def shift_on(self, grid: Grid) -> Grid:
        """The shift on a map of this size.

        "min": none where the smaller side of the map fits in the window; "padded": none along an axis that
        one window covers; all others: always the same.
        """
        if self.clamp == "min" and min(grid) <= min(self.size):
            return 0, 0
        if self.clamp == "padded":
            y, x = (0 if n <= w else s for n, w, s in zip(grid, self.size, self.shift, strict=True))
            return y, x
        return self.shift


@dataclass(frozen=True)
class SwinPlans(Movable):
    """What a Swin forward needs to know about the images of a batch.

    Attributes:
        windows, shifted: one plan per stage for even and odd blocks; the same object where nothing shifts.
        window_pads, shifted_pads: per stage the map to the padded grid that the plan is for; None where the
            plan is for the rows themselves.
        merges: S - 1 maps to 4 * T_{s+1} places: the four rows that become one.
        sample_index: per stage int64 [T_s], the image of every row.
        token_counts: int64 [B], rows per image after the last stage.
        cover: the map from the k * k sub-patches of every last-stage row (k = 2 ** (S - 1), row-major) to the
            patches of the input, for heads that predict per input patch; these rows are those of whole images.
        place: int64 [T_0], the place of every patch in its own grid.
        whole: the last stage of whole images, for decoders.
        resized: (h, w) of images for which absolute positions are resized; None: as the model has them.
        visible: the map from the patches of whole images to the T_0 rows; None: all of them.
    """

    windows: list[Plan]
    shifted: list[Plan]
    window_pads: list[RowMap | None]
    shifted_pads: list[RowMap | None]
    merges: list[RowMap]
    sample_index: list[Tensor]
    token_counts: Tensor
    cover: RowMap
    place: Tensor
    whole: WholePlans
    visible: RowMap | None = None
    resized: Grid | None = None

    def repeat(self, n: int) -> SwinPlans:
        """Plans of n images of the same geometry; tensor operations only."""
        one = self.token_counts.shape[0]
        samples = torch.arange(n, device=self.place.device) * one
        return SwinPlans(
            windows=[plan.repeat(n) for plan in self.windows],
            shifted=[plan.repeat(n) for plan in self.shifted],
            window_pads=[pads and pads.repeat(n) for pads in self.window_pads],
            shifted_pads=[pads and pads.repeat(n) for pads in self.shifted_pads],
            merges=[merge.repeat(n) for merge in self.merges],
            sample_index=[(index + samples[:, None]).flatten() for index in self.sample_index],
            token_counts=self.token_counts.repeat(n),
            cover=self.cover.repeat(n),
            place=self.place.repeat(n),
            whole=self.whole.repeat(n),
            visible=self.visible and self.visible.repeat(n),
            resized=self.resized,
        )

    @staticmethod
    def cat(parts: list[SwinPlans]) -> SwinPlans:
        """Plans of several batches, one after the other in the stream."""
        if len(parts) == 1:
            return parts[0]
        stages = range(len(parts[0].windows))
        offsets = [0]
        for part in parts[:-1]:
            offsets.append(offsets[-1] + part.token_counts.shape[0])
        return SwinPlans(
            windows=[Plan.cat([part.windows[s] for part in parts]) for s in stages],
            shifted=[Plan.cat([part.shifted[s] for part in parts]) for s in stages],
            window_pads=[
                _cat_pads([(part.windows[s], part.window_pads[s]) for part in parts]) for s in stages
            ],
            shifted_pads=[
                _cat_pads([(part.shifted[s], part.shifted_pads[s]) for part in parts]) for s in stages
            ],
            merges=[RowMap.cat([part.merges[s] for part in parts]) for s in stages[:-1]],
            sample_index=[
                torch.cat([part.sample_index[s] + o for part, o in zip(parts, offsets, strict=True)])
                for s in stages
            ],
            token_counts=torch.cat([part.token_counts for part in parts]),
            cover=RowMap.cat([part.cover for part in parts]),
            place=torch.cat([part.place for part in parts]),
            whole=WholePlans.cat([part.whole for part in parts]),
            visible=cat_maps([part.visible for part in parts]),
            resized=parts[0].resized,
        )


pytree.register_dataclass(SwinPlans, serialized_type_name="unitrans.SwinPlans")


def merge_map(grid: Grid) -> RowMap:
    """Which four rows of a map become one: order (0,0), (1,0), (0,1), (1,1) as [row, col], row-major output.

    An odd side gets one line of zeros at its end.
    """
    h, w = grid
    rows = torch.full((h + h % 2, w + w % 2), -1, dtype=torch.int64, device="cpu")
    rows[:h, :w] = torch.arange(h * w, device="cpu").view(h, w)
    quads = rows.view(rows.shape[0] // 2, 2, rows.shape[1] // 2, 2).permute(0, 2, 3, 1)
    return RowMap.from_index(quads.flatten(), h * w)


def half(grid: Grid) -> Grid:
    """The grid after a merge."""
    return -(-grid[0] // 2), -(-grid[1] // 2)


def pad_map(grid: Grid, window: Grid, shift: Grid, mode: PadMode) -> RowMap | None:
    """From the rows of a map to the places of the map that whole windows tile; None where they are the same.

    The places are those before the cyclic shift, so that one plan serves both orders: with "pad_then_roll" the
    rows keep their places in the corner; with "roll_then_pad" the row at y sits where rolling the padded map
    back puts it, at (y - shift) mod h + shift, and the pads come in between (all modulo the padded side).
    """
    padded = tuple(-(-n // w) * w for n, w in zip(grid, window, strict=True))
    if mode == "none" or padded == grid:
        return None
    axes = []
    for n, whole, s in zip(grid, padded, shift, strict=True):
        place = torch.arange(n, device="cpu")
        axes.append(((place - s) % n + s) % whole if mode == "roll_then_pad" else place)
    rows = torch.full(padded, -1, dtype=torch.int64, device="cpu")
    rows[axes[0][:, None], axes[1]] = torch.arange(grid[0] * grid[1], device="cpu").view(grid)
    return RowMap.from_index(rows.flatten(), grid[0] * grid[1])


def windows_of(grid: Grid, window: Grid, shift: Grid, mode: PadMode) -> tuple[Plan, RowMap | None]:
    """The groups of one map, and the pads that they are made for."""
    pads = pad_map(grid, window, shift, mode)
    height, width = (n if pads is None else -(-n // w) * w for n, w in zip(grid, window, strict=True))
    return Plan.windows((height, width), window, shift), pads


def _cat_pads(parts: list[tuple[Plan, RowMap | None]]) -> RowMap | None:
    if all(pads is None for _, pads in parts):
        return None
    return RowMap.cat([RowMap.identity(plan.num_tokens) if pads is None else pads for plan, pads in parts])


@functools.lru_cache(maxsize=256)
def image_plans(grid: Grid, stage_windows: tuple[StageWindow, ...], pad_mode: PadMode = "none") -> SwinPlans:
    """The plans of one image, on the CPU whatever the default device is (they are cached).

    Args:
        grid: (h, w), patches per column and row.
        stage_windows: the window of each stage.
        pad_mode: whether maps that windows do not tile get pads, and where.
    """
    windows, shifted, merges, sample_index = [], [], [], []
    current = grid
    for stage, window in enumerate(stage_windows):
        shift = window.shift_on(current)
        windows.append(windows_of(current, window.size, (0, 0), pad_mode))
        shifted.append(windows_of(current, window.size, shift, pad_mode) if any(shift) else windows[-1])
        sample_index.append(torch.zeros(current[0] * current[1], dtype=torch.int64, device="cpu"))
        if stage < len(stage_windows) - 1:
            merges.append(merge_map(current))
            current = half(current)
    place = torch.arange(grid[0] * grid[1], device="cpu")
    return SwinPlans(
        windows=[plan for plan, _ in windows],
        shifted=[plan for plan, _ in shifted],
        window_pads=[pads for _, pads in windows],
        shifted_pads=[pads for _, pads in shifted],
        merges=merges,
        sample_index=sample_index,
        token_counts=torch.tensor([current[0] * current[1]], device="cpu"),
        cover=cover_map(grid, len(stage_windows)),
        place=place,
        whole=WholePlans.of_images(torch.ones(1, *current, dtype=torch.bool, device="cpu"), 0),
    )


def cover_map(grid: Grid, num_stages: int) -> RowMap:
    """From the k * k sub-patches of every last-stage row of an image to its patches; see `SwinPlans.cover`."""
    k = 2 ** (num_stages - 1)
    rows, cols = -(-grid[0] // k), -(-grid[1] // k)
    place = torch.arange(grid[0] * grid[1], device="cpu")
    y, x = place // grid[1], place % grid[1]
    cover = ((y // k) * cols + x // k) * k * k + (y % k) * k + x % k
    return RowMap.from_index(cover, rows * cols * k * k)


def visible_plans(
    visible: Tensor, stage_windows: tuple[StageWindow, ...], pad_mode: PadMode = "none"
) -> SwinPlans:
    """The plans of equal images of which only some patches exist: groups, merges and every stage list these alone.

    Args:
        visible: bool [B, h, w], whole units: the patches that become one row of the last stage are visible
            together or not at all. At the far border a unit may be cut by it.
        stage_windows, pad_mode: as in `image_plans`.

    Raises:
        ValueError: a unit of which a part is visible; pads, which would stand among the visible tokens.
    """
    batch, grid = len(visible), (visible.shape[1], visible.shape[2])
    last = len(stage_windows) - 1
    windows, shifted, merges, sample_index = [], [], [], []
    place = torch.arange(grid[0] * grid[1], device="cpu").repeat(batch)[visible.flatten()]
    cover = cover_map(grid, last + 1).repeat(batch)
    first = rows = kept_rows(visible.flatten())
    for stage, window in enumerate(stage_windows):
        if pad_map(grid, window.size, window.shift, pad_mode) is not None:
            raise ValueError(
                f"pad_mode: expected none where only visible tokens are encoded, as windows of {window.size} do not "
                f"tile the {grid[0]} x {grid[1]} map of stage {stage}; got {pad_mode}"
            )
        shift = window.shift_on(grid)
        windows.append(Plan.visible_windows(visible, window.size, 0))
        shifted.append(Plan.visible_windows(visible, window.size, shift) if any(shift) else windows[-1])
        sample_index.append(
            torch.arange(batch, device="cpu").repeat_interleave(grid[0] * grid[1])[rows.index]
        )
        if stage < last:
            visible, merge = visible_merge(visible, rows)
            rows, grid = kept_rows(visible.flatten()), half(grid)
            merges.append(merge)
    none: list[RowMap | None] = [None] * (last + 1)
    return SwinPlans(
        windows=windows,
        shifted=shifted,
        window_pads=none,
        shifted_pads=none,
        merges=merges,
        sample_index=sample_index,
        token_counts=visible.flatten(1).sum(1),
        cover=cover,
        place=place,
        whole=WholePlans.of_images(visible, 0),
        visible=first,
    )


def visible_merge(visible: Tensor, rows: RowMap) -> tuple[Tensor, RowMap]:
    """The merge of the visible rows of a stage.

    Args:
        visible: bool [B, h, w].
        rows: the map from all rows of the stage to the visible ones.

    Returns:
        Which rows of the next stage are visible, and the map from visible rows to 4 times as many places.
    """
    batch, grid = len(visible), (visible.shape[1], visible.shape[2])
    quads = merge_map(grid).repeat(batch).index.view(-1, 4)
    exists = quads >= 0
    seen = exists & visible.flatten()[quads.clamp(min=0)]
    kept = seen.any(1)
    if bool((seen != exists)[kept].any()):
        raise ValueError(
            "visible: expected whole units, all patches that become one row of the last stage or none of them; "
            "got a unit of which a part is visible"
        )
    index = torch.where(exists, rows.inverse[quads.clamp(min=0)], -1)[kept].flatten()
    return kept.view(batch, *half(grid)), RowMap.from_index(index, rows.index.shape[0])


def batch_visible_plans(
    grids: Sequence[Grid],
    visible: Sequence[Tensor],
    stage_windows: tuple[StageWindow, ...],
    pad_mode: PadMode = "none",
) -> SwinPlans:
    """The plans of a batch of which only some patches exist; visible: bool [h, w] of every image."""
    return SwinPlans.cat(
        [visible_plans(part, stage_windows, pad_mode) for part in runs_of_visible(grids, visible)]
    )


def runs_of_visible(grids: Sequence[Grid], visible: Sequence[Tensor]) -> list[Tensor]:
    """For each run of equal grids which patches are visible, bool [B, h, w]."""
    if len(grids) != len(visible):
        raise ValueError(f"visible: expected one map for each of {len(grids)} images, got {len(visible)}")
    start, parts = 0, []
    for grid, count in runs_of_equal(grids):
        parts.append(stacked(list(visible[start : start + count]), grid))
        start += count
    return parts


@functools.lru_cache(maxsize=32)
def batch_plans(
    grids: tuple[Grid, ...], stage_windows: tuple[StageWindow, ...], pad_mode: PadMode = "none"
) -> SwinPlans:
    """The plans of a batch: each run of equal grids is one image's plan, tiled."""
    return SwinPlans.cat(
        [image_plans(grid, stage_windows, pad_mode).repeat(n) for grid, n in runs_of_equal(grids)]
    )


def runs_of_equal(grids: Sequence[Grid]) -> list[tuple[Grid, int]]:
    """Each run of equal grids and its length."""
    return [(grid, len(list(run))) for grid, run in itertools.groupby(grids)]
