"""Moving rows of a packed stream: the only data movement that models need beside attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor

from unitrans.ops.movable import Movable


@dataclass(frozen=True)
class RowMap(Movable):
    """A one-to-one map from the rows of one stream to the places of another.

    Attributes:
        index: int64 [M], the source row of every place; -1 is a row of zeros. No source row occurs twice.
        inverse: int64 [T], the place of every source row; -1 where a row is not used.
        gaps: whether `index` or `inverse` holds a -1.
    """

    index: Tensor
    inverse: Tensor
    gaps: bool = False

    @staticmethod
    def from_index(index: Tensor, num_rows: int) -> RowMap:
        """The map with this index, for a source stream of `num_rows` rows."""
        inverse = index.new_full((num_rows,), -1)
        used = index >= 0
        inverse[index[used]] = torch.arange(index.numel(), device=index.device)[used]
        return RowMap(index, inverse, bool((index < 0).any() | (inverse < 0).any()))

    @staticmethod
    def identity(num_rows: int) -> RowMap:
        """Every row at its own place."""
        index = torch.arange(num_rows, device="cpu")
        return RowMap(index, index)

    def inverted(self) -> RowMap:
        """The map back: from places to source rows."""
        return RowMap(self.inverse, self.index, self.gaps)

    def repeat(self, n: int) -> RowMap:
        """The map of `n` equal streams one after the other."""
        return RowMap(
            _tile(self.index, n, self.inverse.shape[0], self.gaps),
            _tile(self.inverse, n, self.index.shape[0], self.gaps),
            self.gaps,
        )

    @staticmethod
    def cat(maps: list[RowMap]) -> RowMap:
        """The map of different streams one after the other."""
        places, rows = 0, 0
        index, inverse = [], []
        for m in maps:
            index.append(_shift(m.index, rows, m.gaps))
            inverse.append(_shift(m.inverse, places, m.gaps))
            places, rows = places + m.index.shape[0], rows + m.inverse.shape[0]
        return RowMap(torch.cat(index), torch.cat(inverse), any(m.gaps for m in maps))


pytree.register_dataclass(RowMap, serialized_type_name="unitrans.RowMap")


def _shift(index: Tensor, offset: int, gaps: bool) -> Tensor:
    return torch.where(index < 0, index, index + offset) if gaps else index + offset


def _tile(index: Tensor, n: int, period: int, gaps: bool) -> Tensor:
    tiled = index + torch.arange(n, device=index.device)[:, None] * period
    if gaps:
        tiled = torch.where(index < 0, index.expand_as(tiled), tiled)
    return tiled.flatten()


def _take(x: Tensor, index: Tensor, gaps: bool) -> Tensor:
    if gaps:  # -1 reads the row of zeros behind the last
        x = F.pad(x, (0, 0, 0, 1))
        index = torch.where(index < 0, x.shape[0] - 1, index)
    return x.index_select(0, index)


class _GatherRows(torch.autograd.Function):
    """index_select whose gradient is an index_select too: its own would be a slow scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, gaps: bool) -> Tensor:
        ctx.save_for_backward(index, inverse)
        ctx.gaps = gaps
        return _take(x, index, gaps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        index, inverse = ctx.saved_tensors
        return _GatherRows.apply(grad, inverse, index, ctx.gaps), None, None, None


def gather_rows(x: Tensor, rows: RowMap) -> Tensor:
    """Rows of x at the places of a map.

    Args:
        x: [T, C].
        rows: a map from T rows to M places.

    Returns:
        [M, C]; zeros where the map has -1.
    """
    return _GatherRows.apply(x, rows.index, rows.inverse, rows.gaps)
