"""Whole images behind an encoder that may have seen parts of them: what a decoder and its plan are made of.

Shape letters: B images, T last rows of the encoder, T_w rows of whole images, h x w rows of one image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.nn.rows import RowMap
from unitrans.ops import Plan
from unitrans.ops.movable import Movable

Grid = tuple[int, int]


@dataclass(frozen=True)
class WholePlans(Movable):
    """The rows of whole images at the resolution of the encoder's last rows, class tokens in front.

    Attributes:
        rows: the map from the encoder's last rows to the T_w rows; its gaps are what the encoder did not see.
        groups: one group of T_w rows per image: in a decoder everything sees everything.
        place: int64 [T_w, 2], row and column of each in the grid of its image; -1, -1 is a class token.
        patches: the map from the T_w rows to those without class tokens; None where there are none.
    """

    rows: RowMap
    groups: Plan
    place: Tensor
    patches: RowMap | None

    @staticmethod
    def of_images(visible: Tensor, extra: int) -> WholePlans:
        """The plans of equal images.

        Args:
            visible: bool [B, h, w], which last rows the encoder has; the stream has them image by image, row-major.
            extra: class tokens in front of every image, which are always visible.
        """
        batch, h, w = visible.shape
        count = extra + h * w
        seen = torch.cat([visible.new_ones(batch, extra), visible.flatten(1)], 1).flatten()
        y, x = torch.arange(h, device="cpu")[:, None].expand(h, w), torch.arange(w, device="cpu").expand(h, w)
        place = torch.stack([y, x], -1).flatten(0, 1)
        place = torch.cat([place.new_full((extra, 2), -1), place])
        of_patches = torch.arange(extra, count, device="cpu")
        return WholePlans(
            rows=kept_rows(seen).inverted(),
            groups=Plan.from_lengths([count]).repeat(batch),
            place=place.repeat(batch, 1),
            patches=RowMap.from_index(of_patches, count).repeat(batch) if extra else None,
        )

    def repeat(self, n: int) -> WholePlans:
        """Plans of n images of the same geometry; tensor operations only."""
        return WholePlans(
            self.rows.repeat(n),
            self.groups.repeat(n),
            self.place.repeat(n, 1),
            self.patches and self.patches.repeat(n),
        )

    @staticmethod
    def cat(parts: list[WholePlans]) -> WholePlans:
        """Plans of several batches, one after the other in the stream."""
        return WholePlans(
            RowMap.cat([part.rows for part in parts]),
            Plan.cat([part.groups for part in parts]),
            torch.cat([part.place for part in parts]),
            cat_maps([part.patches for part in parts]),
        )


pytree.register_dataclass(WholePlans, serialized_type_name="unitrans.WholePlans")


def kept_rows(keep: Tensor) -> RowMap:
    """The map from a stream [T] to those of its rows that are kept (bool [T]), in their order."""
    index = keep.nonzero().squeeze(1)
    inverse = torch.where(keep, keep.long().cumsum(0) - 1, -1)
    return RowMap(index, inverse, gaps=index.numel() < keep.numel())


def restricted(plan: Plan, keep: Tensor) -> Plan:
    """The groups of a plan with some of its rows, for the stream of these rows alone; each keeps its place in the bias.

    Args:
        plan: of a whole stream in order, one group after the other, without a reach.
        keep: bool [T].
    """
    assert plan.token_index is None and plan.reach is None, "made for streams in order"
    starts = F.pad(keep.long().cumsum(0), (1, 0))[plan.cu_seqlens.long()]
    first = torch.repeat_interleave(plan.cu_seqlens[:-1], plan.cu_seqlens.diff())
    place = torch.arange(len(keep), dtype=torch.int32, device=keep.device) - first
    return dataclasses.replace(
        plan,
        cu_seqlens=starts.int(),
        num_tokens=int(starts[-1]),
        position=place[keep] if keep.any() else None,
    )


def cat_maps(maps: list[RowMap | None]) -> RowMap | None:
    """One map for streams one after the other; None where none of them has one."""
    found = [m for m in maps if m is not None]
    assert len(found) in (0, len(maps)), "either every part has a map or none has"
    return RowMap.cat(found) if found else None


def stacked(visible: list[Tensor], grid: Grid) -> Tensor:
    """bool [B, h, w] of equal images. ValueError for a map of another size."""
    for part in visible:
        if part.dtype != torch.bool or tuple(part.shape) != tuple(grid):
            raise ValueError(
                f"visible: expected bool {list(grid)}, the patches of the image, got {part.dtype} {list(part.shape)}"
            )
    return torch.stack([part.cpu() for part in visible])
