"""Position biases: modules that produce the bias planes of the op."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.ops.neighbourhoods import Edges, checked, seen_offsets


def relative_position_index(window_size: Sequence[int], cls_token: bool = False) -> Tensor:
    """For every (query place, key place) of a window the row of the table that holds their offset.

    Along each axis the offset query - key, shifted to start at 0, is one digit of the row number; the first
    axis is the most significant (for two axes: (dy + Wh - 1) * (2 Ww - 1) + (dx + Ww - 1)).

    Args:
        window_size: sides of the window, any number of axes.
        cls_token: one more place, the first, for a token without a position. Three rows behind the offsets
            are its own: it looks at a patch, a patch looks at it, it looks at itself (BEiT, section 2.2).

    Returns:
        int64 [L, L], L = product of the sides, plus one with cls_token.
    """
    # On the CPU whatever the default device is: models are also built on the meta device, values are needed.
    places = torch.tensor(list(itertools.product(*(range(side) for side in window_size))), device="cpu")
    offset = places[:, None] - places[None, :]
    index = torch.zeros_like(offset[..., 0])
    for axis, side in enumerate(window_size):
        index = index * (2 * side - 1) + offset[..., axis] + side - 1
    if cls_token:
        rows = num_offsets(window_size)
        index = F.pad(index, (1, 0, 1, 0), value=rows + 1)
        index[0], index[0, 0] = rows, rows + 2
    return index


def num_offsets(window_size: Sequence[int]) -> int:
    """How many different offsets two places of a window can have."""
    return math.prod(2 * side - 1 for side in window_size)


class RelativePositionBias(nn.Module):
    """A learned bias per head and offset (Swin V1, equation 4; BEiT and T5 use the same form).

    Args:
        window_size: sides of the window.
        num_heads: N.
        cls_token: one more place in front; see `relative_position_index`.
    """

    def __init__(self, window_size: Sequence[int], num_heads: int, *, cls_token: bool = False) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        entries = num_offsets(window_size) + 3 * cls_token
        self.relative_position_bias_table = nn.Parameter(torch.zeros(entries, num_heads))
        self.reset_parameters()
        # Not a buffer: loading by way of the meta device would leave it without values.
        self.relative_position_index = relative_position_index(window_size, cls_token).flatten()

    def reset_parameters(self) -> None:
        """The published initialisation."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self) -> Tensor:
        """One plane shared by all windows: fp32 (fp64 for an fp64 table) [N, L*L]."""
        return _plane(self.relative_position_bias_table, self.relative_position_index)


def neighbourhood_bias(
    table: Tensor,
    grid: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    edges: Edges = "cut",
    tile: int | Sequence[int] = 4,
) -> Tensor:
    """The bias that `Plan.neighbourhoods` of the same arguments needs.

    Args:
        table: float [prod(2 kernel_size - 1), N], a row per offset as in `relative_position_index`; zeros where there
            is no bias but who sees whom.

    Returns:
        [N, P], -inf where a pair does not see each other; its gradient goes to the table.
    """
    asked = checked(grid, kernel_size, dilation, edges, tile)
    if table.dim() != 2 or table.shape[0] != num_offsets(asked.size):
        raise ValueError(f"table: expected [{num_offsets(asked.size)}, N], got {list(table.shape)}")
    index = seen_offsets(asked).to(table.device)
    return table.t()[:, index.clamp(min=0)].masked_fill(index < 0, -math.inf)


class LogSpacedPositionBias(nn.Module):
    """A bias per head from a small network on log-spaced offsets (Swin V2, section 3.3, equations 3 and 4).

    An offset d along an axis enters as sign(d') log2(1 + |d'|) / log2(8) with d' = 8 d / (W - 1); the output o
    of the network becomes the bias 16 sigmoid(o), as in the official code.

    Args:
        window_size: sides of the window.
        num_heads: N.
        pretrained_window_size: sides that offsets are measured by, those of the window that the weights were
            trained with; 0 is window_size.
    """

    def __init__(
        self, window_size: Sequence[int], num_heads: int, pretrained_window_size: Sequence[int] = (0, 0)
    ) -> None:
        super().__init__()
        self.window_size = tuple(window_size)
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))
        # Not buffers, as above.
        self.relative_position_index = relative_position_index(window_size).flatten()
        self.coordinates = log_spaced_offsets(window_size, pretrained_window_size)

    def forward(self) -> Tensor:
        """One plane shared by all windows: fp32 (fp64 for fp64 weights) [N, L*L]."""
        table = self.cpb_mlp(self.coordinates.to(next(self.parameters())))
        return _plane(16 * torch.sigmoid(_wide(table)), self.relative_position_index)


def log_spaced_offsets(window_size: Sequence[int], pretrained_window_size: Sequence[int]) -> Tensor:
    """fp64 [prod(2W - 1), axes]: the offsets of a window as Swin V2 feeds them to its network."""
    axes = []
    for side, trained in zip(window_size, pretrained_window_size, strict=True):
        # A side of 1 has the offset 0 only, whatever it is measured by.
        unit = max((trained if trained > 0 else side) - 1, 1)
        axes.append(torch.arange(-(side - 1), side, dtype=torch.float64, device="cpu") * 8 / unit)
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    return offsets.sign() * torch.log2(1 + offsets.abs()) / math.log2(8)


def _wide(table: Tensor) -> Tensor:
    return table if table.dtype in (torch.float32, torch.float64) else table.float()


def _plane(table: Tensor, index: Tensor) -> Tensor:
    """Rows [entries, N] of a table -> the plane [N, L*L]."""
    if (
        table.device.type != "cpu"
    ):  # sums its gradient in a fixed order, which index_select does on a CPU alone
        return F.embedding(index.to(table.device), _wide(table)).t().contiguous()
    return _wide(table).t().contiguous().index_select(1, index)
