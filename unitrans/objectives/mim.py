"""Masked image modelling as in SimMIM (Xie et al., CVPR 2022, arXiv:2111.09886).

The encoder sees all tokens, the hidden ones replaced by one learned vector; a linear decoder predicts raw
pixels; the loss is L1 on hidden pixels only.
"""

import math
from typing import Any, ClassVar

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from unitrans.nn import gather_rows
from unitrans.objectives.base import SignalOutput


class MimOptions(pydantic.BaseModel):
    """The `objective` section of a run with mim."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(0.6, gt=0, lt=1, description="Share of mask units that are hidden, rounded up.")
    mask_patch_size: int = Field(
        32, ge=1, description="Side of a mask unit in pixels, a multiple of model.patch_size."
    )


class MaskedImageModeling:
    """Hide square units of an image, predict their pixels.

    Args:
        encoder_config: configuration of the image encoder (patch_size, in_chans, total_stride, num_features).
        options: as in `MimOptions`.

    Raises:
        ValueError: a mask unit that does not consist of whole patches.
    """

    name = "mim"
    domains: tuple[str, ...] = ("vision",)

    Options: ClassVar[type[pydantic.BaseModel]] = MimOptions

    def __init__(self, encoder_config: Any, **options: Any) -> None:
        self.options = MimOptions(**options)
        self.encoder_config = encoder_config
        if self.options.mask_patch_size % encoder_config.patch_size:
            raise ValueError(
                f"objective.mask_patch_size: expected a multiple of model.patch_size "
                f"{encoder_config.patch_size}, got {self.options.mask_patch_size}"
            )

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add `mask` bool [h, w] over the patch grid, True = hidden and predicted.

        sample["image"] is [C, H, W] with sides that are multiples of the patch size. ceil(mask_ratio * units)
        units are hidden; units at the far border may be cut by it.
        """
        p = self.encoder_config.patch_size
        _, height, width = sample["image"].shape
        mask = unit_mask(
            (height // p, width // p), self.options.mask_patch_size // p, self.options.mask_ratio, rng
        )
        return sample | {"mask": torch.from_numpy(mask)}

    def build_head(self) -> "PixelHead":
        """Mask token and decoder."""
        config = self.encoder_config
        return PixelHead(
            config.embed_dim, config.num_features, config.in_chans, config.patch_size, config.total_stride
        )


def unit_mask(grid: tuple[int, int], unit: int, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """bool [h, w]: ceil(mask_ratio * units) of the unit x unit squares that tile the grid are True."""
    rows, cols = -(-grid[0] // unit), -(-grid[1] // unit)
    hidden = np.zeros(rows * cols, dtype=bool)
    hidden[rng.permutation(rows * cols)[: math.ceil(rows * cols * mask_ratio)]] = True
    mask = hidden.reshape(rows, cols).repeat(unit, axis=0).repeat(unit, axis=1)
    return np.ascontiguousarray(mask[: grid[0], : grid[1]])


class PixelHead(nn.Module):
    """Mask token in front of an image encoder and a linear pixel decoder behind it.

    Args:
        embed_dim: width of the encoder's first rows.
        num_features: width of its last rows.
        in_chans, patch_size: of the images.
        total_stride: pixels per side that one last row stands for.
    """

    def __init__(
        self, embed_dim: int, num_features: int, in_chans: int, patch_size: int, total_stride: int
    ) -> None:
        super().__init__()
        self.in_chans, self.patch_size, self.total_stride = in_chans, patch_size, total_stride
        self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        # Output order (channel, row, column) of a total_stride square, which is PixelShuffle's.
        self.decoder = nn.Linear(num_features, in_chans * total_stride**2)

    def forward(self, encoder: Any, patches: Tensor, plans: Any, mask: Tensor | None = None) -> SignalOutput:
        """Hide, encode, predict.

        Args:
            encoder: has embed(patches) and encode(rows, plans); its plans have `cover`.
            patches: [T, in_chans*p*p], normalised pixels.
            plans: the encoder's plans of the batch.
            mask: bool [T], True = hidden and predicted; None hides nothing (and sums nothing).

        Returns:
            loss_sum: sum of absolute errors over hidden values; num_targets: how many values those are;
            prediction: [T, in_chans*p*p] in the order of patches.
        """
        x = encoder.embed(patches)
        if mask is None:
            mask = patches.new_zeros(patches.shape[0], dtype=torch.bool)
        x = torch.where(mask[:, None], self.mask_token.to(x.dtype), x)
        prediction = self.per_patch(self.decoder(encoder.encode(x, plans)), plans)
        error = (prediction.to(patches.dtype) - patches).abs() * mask[:, None]
        return SignalOutput(
            loss_sum=error.sum(), num_targets=mask.sum() * patches.shape[1], prediction=prediction.detach()
        )

    def per_patch(self, squares: Tensor, plans: Any) -> Tensor:
        """Decoded squares [T_last, in_chans*s*s] of s = total_stride pixels -> input patches [T, in_chans*p*p]."""
        p, k = self.patch_size, self.total_stride // self.patch_size
        x = squares.view(-1, self.in_chans, k, p, k, p).permute(0, 2, 4, 1, 3, 5)
        return gather_rows(x.reshape(-1, self.in_chans * p * p), plans.cover)
