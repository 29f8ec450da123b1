"""The groups of a plain ViT forward: one per image, its class token and others in front.

Shape letters: B images, T patches of all images, T' rows with the tokens in front of every image (T without).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.models.swin.plans import runs_of_equal, runs_of_visible
from unitrans.models.whole import Grid, WholePlans, cat_maps, kept_rows
from unitrans.nn.rows import RowMap
from unitrans.ops import Plan
from unitrans.ops.movable import Movable


@dataclass(frozen=True)
class VitPlans(Movable):
    """What a ViT forward needs to know about the images of a batch.

    Attributes:
        groups: one group of rows per image, at their places in the bias plane where there is one.
        tokens: the map from patches to rows, whose gaps are the tokens in front of every image; None without them.
        sample_index: int64 [T'], the image of every row.
        token_counts: int64 [B], patches per image.
        cover: the map from last rows to patches of the input, which is the identity.
        place: int64 [T'], the place of every row in the table of absolute positions.
        whole: the last rows of whole images, for decoders.
        resized: (h, w) of images for which absolute positions are resized; None: as the model has them.
        visible: the map from the patches of whole images to those of the stream; None: all of them.
    """

    groups: Plan
    tokens: RowMap | None
    sample_index: Tensor
    token_counts: Tensor
    cover: RowMap
    place: Tensor
    whole: WholePlans
    visible: RowMap | None = None
    resized: Grid | None = None

    def repeat(self, n: int) -> VitPlans:
        """Plans of n images of the same geometry; tensor operations only."""
        samples = torch.arange(n, device=self.place.device) * self.token_counts.shape[0]
        return VitPlans(
            groups=self.groups.repeat(n),
            tokens=self.tokens and self.tokens.repeat(n),
            sample_index=(self.sample_index + samples[:, None]).flatten(),
            token_counts=self.token_counts.repeat(n),
            cover=self.cover.repeat(n),
            place=self.place.repeat(n),
            whole=self.whole.repeat(n),
            visible=self.visible and self.visible.repeat(n),
            resized=self.resized,
        )

    @staticmethod
    def cat(parts: list[VitPlans]) -> VitPlans:
        """Plans of several batches, one after the other in the stream."""
        if len(parts) == 1:
            return parts[0]
        first = 0
        samples = []
        for part in parts:
            samples.append(part.sample_index + first)
            first += part.token_counts.shape[0]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return VitPlans(
            groups=Plan.cat([part.groups for part in parts]),
            tokens=RowMap.cat(tokens) if tokens else None,
            sample_index=torch.cat(samples),
            token_counts=torch.cat([part.token_counts for part in parts]),
            cover=RowMap.cat([part.cover for part in parts]),
            place=torch.cat([part.place for part in parts]),
            whole=WholePlans.cat([part.whole for part in parts]),
            visible=cat_maps([part.visible for part in parts]),
            resized=parts[0].resized,
        )


pytree.register_dataclass(VitPlans, serialized_type_name="unitrans.VitPlans")


@functools.lru_cache(maxsize=256)
def image_plans(grid: Grid, table: Grid | None, prefix: int) -> VitPlans:
    """The plans of one image, on the CPU whatever the default device is (they are cached).

    Args:
        grid: (h, w), patches per column and row.
        table: (h, w), at least the grid: rows count by their places in it, and share a bias plane of its
            size; None: rows count by themselves, without a bias.
        prefix: rows in front of the patches, of a class token and others.
    """
    h, w = grid
    rows = h * w + prefix
    place = _places(grid, table, prefix)
    return VitPlans(
        groups=Plan.from_lengths([rows])
        if table is None
        else _groups(place, torch.tensor([rows], device="cpu"), table[0] * table[1] + prefix),
        tokens=RowMap.from_index(F.pad(torch.arange(h * w, device="cpu"), (prefix, 0), value=-1), h * w)
        if prefix
        else None,
        sample_index=torch.zeros(rows, dtype=torch.int64, device="cpu"),
        token_counts=torch.tensor([h * w], device="cpu"),
        cover=RowMap.identity(h * w),
        place=place,
        whole=WholePlans.of_images(torch.ones(1, h, w, dtype=torch.bool, device="cpu"), prefix),
    )


def visible_plans(visible: Tensor, table: Grid | None, prefix: int) -> VitPlans:
    """The plans of equal images of which only some patches exist; class tokens always do.

    Args:
        visible: bool [B, h, w].
        table, prefix: as in `image_plans`.
    """
    batch, h, w = visible.shape
    seen = torch.cat([visible.new_ones(batch, prefix), visible.flatten(1)], 1)
    counts = seen.sum(1)
    place = _places((h, w), table, prefix).repeat(batch)[seen.flatten()]
    patches = kept_rows(visible.flatten())
    is_patch = torch.ones(batch, prefix + h * w, dtype=torch.bool, device="cpu")
    is_patch[:, :prefix] = False
    is_patch = is_patch.flatten()[seen.flatten()]
    tokens = torch.where(is_patch, is_patch.long().cumsum(0) - 1, -1)
    side = None if table is None else table[0] * table[1] + prefix
    return VitPlans(
        groups=Plan.from_lengths(counts) if side is None else _groups(place, counts, side),
        tokens=RowMap.from_index(tokens, patches.index.shape[0]) if prefix else None,
        sample_index=torch.arange(batch, device="cpu").repeat_interleave(counts),
        token_counts=counts - prefix,
        cover=RowMap.identity(batch * h * w),
        place=place,
        whole=WholePlans.of_images(visible, prefix),
        visible=patches,
    )


def _places(grid: Grid, table: Grid | None, prefix: int) -> Tensor:
    """int64 [prefix + h*w]: the place of every row of an image in a table of positions."""
    y, x = torch.arange(grid[0], device="cpu")[:, None], torch.arange(grid[1], device="cpu")
    place = (y * (grid[1] if table is None else table[1]) + x).flatten() + prefix
    return torch.cat([torch.arange(prefix, device="cpu"), place])


def _groups(place: Tensor, counts: Tensor, side: int) -> Plan:
    """Groups of consecutive rows, at these places of a shared bias plane [side, side]."""
    return Plan(
        F.pad(counts.cumsum(0), (1, 0)).int(),
        num_tokens=place.shape[0],
        max_group_size=side,
        position=place.int(),
        bias_offset=torch.zeros(len(counts), dtype=torch.int64, device="cpu"),
        bias_row_stride=torch.full((len(counts),), side, dtype=torch.int32, device="cpu"),
        bias_size=side * side,
    )


def batch_visible_plans(
    grids: Sequence[Grid], visible: Sequence[Tensor], table: Grid | None, prefix: int
) -> VitPlans:
    """The plans of a batch of which only some patches exist; visible: bool [h, w] of every image."""
    return VitPlans.cat([visible_plans(part, table, prefix) for part in runs_of_visible(grids, visible)])


@functools.lru_cache(maxsize=32)
def batch_plans(grids: tuple[Grid, ...], table: Grid | None, prefix: int) -> VitPlans:
    """The plans of a batch: each run of equal grids is one image's plan, tiled."""
    return VitPlans.cat([image_plans(grid, table, prefix).repeat(n) for grid, n in runs_of_equal(grids)])
