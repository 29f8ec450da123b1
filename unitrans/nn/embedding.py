"""From images to rows of patches and back, and the patch embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.nn.linear import Linear


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Images as rows of patches.

    Args:
        images: [C, H, W] or [B, C, H, W]; H and W are multiples of patch_size.
        patch_size: side of a patch in pixels.

    Returns:
        [h*w, C*p*p] or [B, h*w, C*p*p]: patches row-major over the grid, values inside a patch in
        (channel, row, column) order, which is the order of a flattened convolution weight.

    Raises:
        ValueError: a side that is not a multiple of the patch size.
    """
    *lead, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"images: expected sides that are multiples of patch_size {patch_size}, got {height} x {width}"
        )
    h, w = height // patch_size, width // patch_size
    x = images.reshape(*lead, channels, h, patch_size, w, patch_size)
    x = x.movedim((-4, -2), (-5, -4))  # [..., h, w, C, p, p]
    return x.reshape(*lead, h * w, channels * patch_size**2)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int, channels: int) -> Tensor:
    """The inverse of `patchify`: [..., h*w, C*p*p] -> [..., C, H, W]."""
    *lead, _, _ = patches.shape
    h, w = grid
    x = patches.reshape(*lead, h, w, channels, patch_size, patch_size)
    x = x.movedim((-5, -4), (-4, -2))  # [..., C, h, p, w, p]
    return x.reshape(*lead, channels, h * patch_size, w * patch_size)


class PatchEmbed(nn.Module):
    """Linear projection of patches, then an optional LayerNorm (Swin, ViT).

    The weight has the shape of the usual strided convolution, [C, in_chans, p, p], so that published
    checkpoints fit; the product is the same.
    """

    def __init__(
        self,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        norm: bool,
        bias: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size, bias=bias)
        self.norm = nn.LayerNorm(embed_dim, eps=eps) if norm else nn.Identity()

    def forward(self, patches: Tensor) -> Tensor:
        """patches [T, in_chans*p*p] as `patchify` makes them -> [T, C]."""
        return self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))


class PatchMerging(nn.Module):
    """Four neighbouring rows become one of twice the width (Swin V1, section 3.1).

    V1 normalises the 4C values and then projects; V2 projects and then normalises (`norm_last`).
    """

    def __init__(self, dim: int, *, norm_last: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim if norm_last else 4 * dim, eps=eps)
        self.norm_last = norm_last

    def forward(self, quads: Tensor) -> Tensor:
        """quads [4*T', C], each four rows in the order (0,0), (1,0), (0,1), (1,1) as [row, col] -> [T', 2C]."""
        x = quads.view(-1, self.reduction.in_features)
        return self.norm(self.reduction(x)) if self.norm_last else self.reduction(self.norm(x))


def sincos_positions(place: Tensor, dim: int) -> Tensor:
    """Fixed positions on a grid: sines, then cosines of the column, then of the row (He et al. 2022, MAE).

    Args:
        place: integers [T, 2], row and column; negative is a row of zeros (class tokens).
        dim: C, a multiple of 4.

    Returns:
        fp32 [T, C]; wavelengths are 2 pi 10000 ** (4 i / C), i = 0 ... C / 4 - 1.
    """
    rates = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device=place.device) * 4 / dim)
    angles = place.flip(1).double()[:, :, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    return torch.where(place[:, :1] < 0, 0.0, waves).float()
