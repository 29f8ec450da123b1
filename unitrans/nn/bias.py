"""Position biases: modules that produce the bias planes of the op."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_index(window_size: Sequence[int]) -> Tensor:
    """For every (query place, key place) of a window the row of the table that holds their offset.

    Along each axis the offset query - key, shifted to start at 0, is one digit of the row number; the first
    axis is the most significant (for two axes: (dy + Wh - 1) * (2 Ww - 1) + (dx + Ww - 1)).

    Args:
        window_size: sides of the window, any number of axes.

    Returns:
        int64 [L, L], L = product of the sides.
    """
    # On the CPU whatever the default device is: models are also built on the meta device, values are needed.
    places = torch.tensor(list(itertools.product(*(range(side) for side in window_size))), device="cpu")
    offset = places[:, None] - places[None, :]
    index = torch.zeros_like(offset[..., 0])
    for axis, side in enumerate(window_size):
        index = index * (2 * side - 1) + offset[..., axis] + side - 1
    return index


class RelativePositionBias(nn.Module):
    """A learned bias per head and offset (Swin V1, equation 4; BEiT and T5 use the same form)."""

    def __init__(self, window_size: Sequence[int], num_heads: int) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        entries = math.prod(2 * side - 1 for side in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(entries, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Not a buffer: loading by way of the meta device would leave it without values.
        self.relative_position_index = relative_position_index(window_size).flatten()

    def forward(self) -> Tensor:
        """One plane shared by all windows: fp32 (fp64 for an fp64 table) [N, L*L]."""
        table: Tensor = self.relative_position_bias_table
        if table.dtype not in (torch.float32, torch.float64):
            table = table.float()
        return F.embedding(self.relative_position_index.to(table.device), table).t().contiguous()
