"""Masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377): a plain ViT sees a quarter of the patches.

A decoder of Blocks gets one learned row back for every hidden patch; the loss is the squared error of hidden pixels,
which are normalised patch by patch with `norm_pix_loss`.
"""

from typing import Any

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from unitrans.models._encoder import PatchEncoder
from unitrans.objectives.base import Labels, SignalOutput, check_one_row_per_patch
from unitrans.objectives.decoder import BlockDecoder, decoder_sizes
from unitrans.objectives.mim import PixelObjective, no_mask


class MaeOptions(pydantic.BaseModel):
    """The `objective` section of a run with mae."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(
        0.75, gt=0, lt=1, description="Share of patches that are hidden; what stays visible is rounded down."
    )
    norm_pix_loss: bool = Field(
        False,
        description="Predict every patch minus its mean, over its standard deviation (better features, published for "
        "all sizes); false: pixels, which look better in pictures.",
    )
    decoder_embed_dim: int = Field(512, ge=4, description="Width of the decoder.")
    decoder_depth: int = Field(8, ge=1, description="Blocks of the decoder.")
    decoder_num_heads: int = Field(16, ge=1, description="Heads of these Blocks.")
    decoder_mlp_ratio: float = Field(
        4.0, gt=0, description="Hidden width of their MLPs over decoder_embed_dim."
    )


class MaskedAutoencoder(PixelObjective):
    """Hide most patches of an image from the encoder, predict their pixels.

    Raises:
        ValueError: an encoder with windows or merges; a share that hides all patches.
    """

    name = "mae"
    loss_unit = "squared error a hidden value"
    Options = MaeOptions
    decays_tokens = True

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        check_one_row_per_patch(self.name, encoder_config)
        rows, cols = encoder_config.grid
        if int(rows * cols * (1 - self.options.mask_ratio)) < 1:
            raise ValueError(
                f"objective.mask_ratio: {self.options.mask_ratio} hides all {rows * cols} patches, so nothing is left "
                "to predict from; lower it"
            )
        decoder_sizes(self.options.decoder_embed_dim, self.options.decoder_num_heads, 0)

    @property
    def unit(self) -> int:
        """Side of a mask unit in pixels: a patch."""
        return int(self.encoder_config.patch_size)

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add `mask` bool [h, w] over the patch grid, True = hidden and predicted, and `visible`, the others."""
        grid = tuple(side // self.unit for side in sample["image"].shape[1:])
        count = int(np.prod(grid))
        mask = np.ones(count, dtype=bool)
        mask[np.argsort(rng.random(count))[: int(count * (1 - self.options.mask_ratio))]] = False
        hidden = torch.from_numpy(mask.reshape(grid))
        return sample | {"mask": hidden, "visible": ~hidden}

    @property
    def note(self) -> str | None:
        """What whoever shows or measures predictions has to say with them."""
        if not self.options.norm_pix_loss:
            return None
        return (
            "norm_pix_loss: predictions are in units of the mean and deviation of each patch and cannot be viewed as "
            "images; for pictures and errors in data units those of the true patch are put back in, which favours the "
            "model"
        )

    def build_head(self) -> "MaeHead":
        """The decoder."""
        config, options = self.encoder_config, self.options
        decoder = BlockDecoder(
            config.num_features,
            options.decoder_embed_dim,
            options.decoder_depth,
            options.decoder_num_heads,
            config.in_chans * config.patch_size**2,
            grid=config.grid,
            mlp_ratio=options.decoder_mlp_ratio,
            eps=config.layer_norm_eps,
        )
        return MaeHead(decoder, config.in_chans, config.patch_size, norm_pix_loss=options.norm_pix_loss)


class MaeHead(nn.Module):
    """The decoder behind an encoder of visible patches, and the loss.

    Args:
        decoder: for in_chans * p * p values per patch, in the published order (row, column, channel).
        in_chans, patch_size: of the images.
        norm_pix_loss: see `MaeOptions`.
    """

    def __init__(self, decoder: BlockDecoder, in_chans: int, patch_size: int, *, norm_pix_loss: bool) -> None:
        super().__init__()
        self.decoder, self.in_chans, self.patch_size = decoder, in_chans, patch_size
        self.norm_pix_loss = norm_pix_loss

    def forward(
        self, encoder: PatchEncoder, patches: Tensor, plans: Any, mask: Tensor | None = None
    ) -> SignalOutput:
        """Encode what is visible, predict the rest.

        Args:
            encoder: of patches.
            patches: [T, in_chans*p*p], normalised pixels of whole images.
            plans: the encoder's plans of the visible patches.
            mask: bool [T], True = hidden and predicted; None hides nothing and sums nothing.

        Returns:
            loss_sum: sum of squared errors over hidden values, of normalised ones with norm_pix_loss; num_targets: how
            many values those are; prediction: [T, in_chans*p*p] in the units and order of patches.
        """
        rows = encoder.encode(self.enter(encoder, patches, plans), plans)
        return self.leave(encoder, rows, patches, plans, mask)

    def enter(self, encoder: PatchEncoder, patches: Tensor, plans: Any) -> Tensor:
        """Rows [T, C] of the visible patches for the encoder."""
        return encoder.embed(encoder.visible(patches, plans))

    @staticmethod
    def count(patches: Tensor, mask: Tensor | None = None) -> int:
        """num_targets of a batch, before anything is computed."""
        return 0 if mask is None else int(mask.sum()) * patches.shape[1]

    def leave(
        self, encoder: PatchEncoder, rows: Tensor, patches: Tensor, plans: Any, mask: Tensor | None = None
    ) -> SignalOutput:
        """What is predicted from the encoder's last rows [T', C], and the loss; see `forward`."""
        mask = no_mask(patches) if mask is None else mask
        prediction = self.in_our_order(self.decoder(rows, plans.whole))
        target, shown = patches, prediction
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(patches)
            target, shown = (patches - mean) / deviation, prediction * deviation + mean
        error = (prediction.to(target.dtype) - target).square() * mask[:, None]
        return SignalOutput(
            loss_sum=error.sum(), num_targets=mask.sum() * patches.shape[1], prediction=shown.detach()
        )

    def in_our_order(self, values: Tensor) -> Tensor:
        """[T, p*p*C] as (row, column, channel) -> [T, C*p*p] as `patchify` has them."""
        p = self.patch_size
        return values.view(-1, p, p, self.in_chans).permute(0, 3, 1, 2).reshape(len(values), -1)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [T, 1] of the values of every patch; the variance is the unbiased one plus 1e-6."""
    variance, mean = torch.var_mean(patches, dim=1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
