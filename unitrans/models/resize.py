"""Tables of positions for windows and images of another size, by the rule of the code base they come from."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitrans.models.channels import inflate_channels
from unitrans.models.whole import Grid

ResizeRule = Literal["bicubic", "geometric", "geometric-linear"]


def fit_shape(
    name: str, tensor: Tensor, shape: torch.Size, rule: ResizeRule = "bicubic", grid: Grid | None = None
) -> Tensor | None:
    """The tensor in this shape: as it is, without sides of 1, resized or for other channels; None if none applies.

    A patch embedding for other channels is inflated or summed (`inflate_channels`). Relative position tables of square
    windows are resized by the rule, absolute positions always bicubic; the rows of tokens in front stay as they are.

    Args:
        name: of our parameter; its end tells the tables.
        tensor: theirs. Absolute positions are [1, rows, C] of a square grid or of `grid`, or maps [1, C, h, w].
        shape: of ours.
        rule: see `resize_bias_table`.
        grid: (h, w) of our absolute positions; None: square.
    """
    if tensor.shape == shape:
        return tensor
    if name.endswith("pos_embed") and tensor.dim() in (3, 4):
        return _fit_places(tensor, shape, grid)
    if [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]:
        return tensor.reshape(shape)
    if name.endswith("patch_embed.proj.weight") and tensor.dim() == len(shape) == 4:
        same = (tensor.shape[0], *tensor.shape[2:]) == (shape[0], *shape[2:])
        return inflate_channels(tensor, shape[1]) if same else None
    if name.endswith("relative_position_bias_table") and tensor.dim() == 2 and tensor.shape[1] == shape[1]:
        for extra in (0, 3):
            sides = _square_sides(tensor.shape[0] - extra, shape[0] - extra)
            if sides:
                places = tensor[: tensor.shape[0] - extra]
                return torch.cat([resize_bias_table(places, *sides, rule), tensor[tensor.shape[0] - extra :]])
    return None


def _fit_places(tensor: Tensor, shape: torch.Size, grid: Grid | None) -> Tensor | None:
    """Absolute positions in our shape [1, rows, C]."""
    if tensor.dim() == 4:  # a map
        old, tensor = (tensor.shape[2], tensor.shape[3]), tensor.flatten(2).transpose(1, 2)
        if tensor.shape[2] != shape[2]:
            return None
        new = _grid_of(shape[1], grid)
        return None if new is None else resize_places(tensor[0], old, new)[None]
    if tensor.shape[2] != shape[2]:
        return None
    known = None if grid is None else shape[1] - grid[0] * grid[1]
    for extra in (0, 1) if known is None else (known,):  # rows of tokens in front
        source, new = _grid_of(tensor.shape[1] - extra, None), _grid_of(shape[1] - extra, grid)
        if source and new:
            places = resize_places(tensor[0, extra:], source, new)
            return torch.cat([tensor[0, :extra], places])[None]
    return None


def _grid_of(rows: int, grid: Grid | None) -> Grid | None:
    """The grid of so many rows, if it is known or can be square."""
    if grid is not None and grid[0] * grid[1] == rows:
        return grid
    side = int(max(rows, 0) ** 0.5)
    return (side, side) if side > 0 and side * side == rows else None


def _square_sides(old: int, new: int) -> tuple[int, int] | None:
    grids = _grid_of(old, None), _grid_of(new, None)
    return (grids[0][0], grids[1][0]) if grids[0] and grids[1] else None


def resize_places(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Rows [h * w, C] of one grid for another one, bicubic per column."""
    planes = table.t().reshape(1, -1, *old)
    resized = F.interpolate(planes, size=new, mode="bicubic", align_corners=False)
    return resized.reshape(-1, new[0] * new[1]).t().contiguous()


def resize_bias_table(table: Tensor, old: int, new: int, rule: ResizeRule = "bicubic") -> Tensor:
    """A square table of relative positions for another window.

    Args:
        table: [old * old, N]; old = 2 * window - 1.
        new: side of the wanted table.
        rule: bicubic: as an image (Swin). geometric: the old offsets are laid out with steps that grow by a constant
            factor, so that they reach as far as the new ones, and a cubic spline through them is read at whole
            numbers (SimMIM, BEiT); geometric-linear: the same with straight lines (timm).

    Returns:
        [new * new, N].
    """
    if rule == "bicubic" or old == 1:
        return resize_places(table, (old, old), (new, new))
    # SciPy comes with scikit-learn; importing it takes a while.
    from scipy.interpolate import RectBivariateSpline, RegularGridInterpolator

    known, wanted = _geometric_offsets(old, new), np.arange(-(new // 2), new // 2 + 1)
    columns = []
    for column in table.detach().double().cpu().t().reshape(-1, old, old).numpy():
        if rule == "geometric" and old > 3:
            columns.append(RectBivariateSpline(known, known, column)(wanted, wanted))
        else:  # also three offsets, which are too few for a cubic spline
            lines = RegularGridInterpolator((known, known), column, bounds_error=False, fill_value=None)
            columns.append(lines(np.stack(np.meshgrid(wanted, wanted, indexing="ij"), axis=-1)))
    resized = np.stack(columns, axis=-1).reshape(new * new, -1)
    return torch.from_numpy(resized).to(table)


def _geometric_offsets(old: int, new: int) -> np.ndarray:
    """Where the offsets of the old table lie in units of the new one: 0, 1, 1 + q, 1 + q + q^2, ... and mirrored."""
    half = np.arange(old // 2)
    low, high = 1.01, 1.5
    while high - low > 1e-6:  # the published bounds and precision
        factor = (low + high) / 2
        if (factor**half).sum() > new // 2:
            high = factor
        else:
            low = factor
    distance = np.cumsum(factor**half)
    return np.concatenate([-distance[::-1], [0.0], distance])
