"""The lists of a plan as tensors: groups of one side (queries or keys) and the bias planes they address.

All of it is tensor arithmetic whose shapes do not depend on values, so that it can be traced;
only the constructors of planes read values.
Shape letters: G groups, M listed tokens, P entries of a bias plane.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """Groups over one stream; fields as in `Plan`."""

    cu_seqlens: Tensor
    token_index: Tensor | None
    position: Tensor | None
    num_rows: int
    max_group_size: int

    @property
    def num_listed(self) -> int:
        return self.num_rows if self.token_index is None else self.token_index.shape[0]

    def explicit_index(self) -> Tensor:
        """token_index, written out: int32 [M]."""
        if self.token_index is not None:
            return self.token_index
        return torch.arange(self.num_rows, dtype=torch.int32, device=self.cu_seqlens.device)

    def explicit_position(self) -> Tensor:
        """position, written out: int32 [M]."""
        if self.position is not None:
            return self.position
        cu = self.cu_seqlens
        start = torch.repeat_interleave(cu[:-1], cu.diff(), output_size=self.num_listed)
        return torch.arange(self.num_listed, dtype=torch.int32, device=cu.device) - start


def tile(side: Side, n: int) -> Side:
    """n copies of one geometry, one after the other in the stream."""
    cu = side.cu_seqlens
    step = torch.arange(n, dtype=torch.int32, device=cu.device)[:, None]
    return Side(
        cu_seqlens=torch.cat([cu[:1], (cu[1:] + step * side.num_listed).flatten()]),
        token_index=None if side.token_index is None else (side.token_index + step * side.num_rows).flatten(),
        position=None if side.position is None else side.position.repeat(n),
        num_rows=side.num_rows * n,
        max_group_size=side.max_group_size,
    )


def join(sides: Sequence[Side]) -> Side:
    """Different geometries, one after the other in the stream."""
    cu_seqlens, token_index, rows, listed = [sides[0].cu_seqlens[:1]], [], 0, 0
    for side in sides:
        cu_seqlens.append(side.cu_seqlens[1:] + listed)
        token_index.append(side.explicit_index() + rows)
        rows, listed = rows + side.num_rows, listed + side.num_listed
    in_order = all(side.token_index is None for side in sides)
    counted = all(side.position is None for side in sides)
    return Side(
        cu_seqlens=torch.cat(cu_seqlens),
        token_index=None if in_order else torch.cat(token_index),
        position=None if counted else torch.cat([side.explicit_position() for side in sides]),
        num_rows=rows,
        max_group_size=max(side.max_group_size for side in sides),
    )


class Planes(NamedTuple):
    """Where each group finds its bias; fields as in `Plan`."""

    bias_offset: Tensor
    bias_row_stride: Tensor
    bias_size: int


def ragged_planes(queries: Side, keys: Side) -> Planes:
    """A plane [n_queries, n_keys] for each group, one after the other."""
    columns = keys.cu_seqlens.diff()
    sizes = queries.cu_seqlens.diff().long() * columns
    return Planes(sizes.cumsum(0) - sizes, columns, int(sizes.sum()))


def shared_plane(queries: Side, keys: Side, row_length: int, *, is_square: bool) -> Planes:
    """One plane for all groups, a column for each of `row_length` places (and as many rows, if square)."""

    def num_places(side: Side) -> int:
        last = side.cu_seqlens.diff() - 1 if side.position is None else side.position
        return int(last.max()) + 1 if last.numel() else 0

    if num_places(keys) > row_length:
        raise ValueError(f"bias: expected rows that hold every place, {num_places(keys)}, got {row_length}")
    return Planes(
        torch.zeros_like(queries.cu_seqlens[1:], dtype=torch.int64),
        torch.full_like(queries.cu_seqlens[1:], row_length),
        row_length * (row_length if is_square else num_places(queries)),
    )


def join_planes(planes: Sequence[Planes], *, concatenated: bool) -> Planes:
    """The planes of several plans: of one common bias, or of their biases concatenated along P."""
    sizes = [plane.bias_size for plane in planes if plane.bias_size > 0]
    if not concatenated and any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"planes: plans that share a bias must be made for equal bias sizes, got {sorted(set(sizes))}; "
            "use planes='concatenated' and concatenate their biases along the last axis"
        )
    offsets, start = [], 0
    for plane in planes:
        offsets.append(torch.where(plane.bias_offset < 0, -1, plane.bias_offset + start))
        start += plane.bias_size if concatenated else 0
    strides = [plane.bias_row_stride for plane in planes]
    return Planes(torch.cat(offsets), torch.cat(strides), start if concatenated else max(sizes, default=0))
