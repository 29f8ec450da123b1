"""Masked image modelling as in SimMIM (Xie et al., CVPR 2022, arXiv:2111.09886).

The encoder sees all tokens, the hidden ones replaced by one learned vector; a linear decoder predicts raw
pixels; the loss is L1 on hidden pixels only. With `norm_target` the target is every pixel minus the mean of the
square around it, over that square's standard deviation.

With `encoder_tokens: visible` the encoder runs on visible tokens alone, through windows and merges, and a decoder of
Blocks gets learned rows back in the place of what was hidden.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models._encoder import PatchEncoder
from unitrans.nn import gather_rows, patchify, unpatchify
from unitrans.objectives.base import Labels, Measure, Objective, SignalOutput
from unitrans.objectives.decoder import BlockDecoder, decoder_sizes


class MimOptions(pydantic.BaseModel):
    """The `objective` section of a run with mim."""

    model_config = pydantic.ConfigDict(extra="forbid")

    mask_ratio: float = Field(0.6, gt=0, lt=1, description="Share of mask units that are hidden, rounded up.")
    mask_patch_size: int = Field(
        32, ge=1, description="Side of a mask unit in pixels, a multiple of model.patch_size."
    )
    encoder_tokens: Literal["all", "visible"] = Field(
        "all",
        description="all: the encoder sees every token, hidden ones as one learned vector (published). visible: it "
        "runs on visible tokens only, at a fraction of the cost; mask_patch_size is then a multiple of the encoder's "
        "total stride, and the decoder has Blocks.",
    )
    decoder_depth: int | None = Field(
        None,
        ge=0,
        description="Blocks of the decoder, in which every last row of the encoder sees its whole image; 0: one linear "
        "layer. null: 0 with encoder_tokens=all (published), 1 with visible.",
    )
    decoder_embed_dim: int | None = Field(
        None, ge=4, description="Width of these Blocks. null: that of the encoder's last rows, at most 512."
    )
    decoder_num_heads: int | None = Field(
        None, ge=1, description="Heads of these Blocks. null: one for every 32 channels."
    )
    norm_target: bool = Field(
        False, description="Predict pixels normalised by the mean and deviation of the square around each."
    )
    norm_target_window: int = Field(
        47, ge=3, description="Side in pixels of that square, odd; it is cut at the borders of the image."
    )

    @pydantic.field_validator("norm_target_window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"expected an odd number, so that a pixel is in the middle, got {value}")
        return value


class PixelObjective(Objective):
    """What the objectives share that predict hidden pixels."""

    domains = ("vision",)
    predicts = "pixels"
    measures: ClassVar[Mapping[str, Measure]] = {
        "l1": Measure(
            "mean error of a hidden pixel, 0 black to 1 white",
            "Mean error (L1) per hidden pixel, on a scale from 0 (black) to 1 (white),",
            smaller_is_better=True,
        )
    }
    metric_names = ("l1",)
    headline = "l1"

    @property
    def unit(self) -> int:
        """Side of a mask unit in pixels."""
        raise NotImplementedError

    def metrics(self, batch: dict[str, Any], output: SignalOutput, scale: Tensor | None) -> dict[str, Tensor]:
        """l1: the error per hidden value, in units of the data where their scale is given."""
        assert output.prediction is not None and output.num_targets is not None
        error = (output.prediction.float() - batch["patches"].float()).abs()[batch["mask"]]
        error = error if scale is None else error * scale.to(error.device)
        return {"l1": torch.stack([error.double().sum(), output.num_targets.double()])}


class MaskedImageModeling(PixelObjective):
    """Hide square units of an image, predict their pixels.

    Args:
        encoder_config: configuration of the image encoder (patch_size, in_chans, total_stride, num_features).
        options: as in `MimOptions`.

    Raises:
        ValueError: a mask unit that does not consist of whole patches; options that do not fit together.
    """

    name = "mim"
    loss_unit = "L1 a hidden value, pixels normalised"
    Options = MimOptions

    def __init__(self, encoder_config: Any, labels: Labels | None = None, **options: Any) -> None:
        super().__init__(encoder_config, labels, **options)
        if self.options.mask_patch_size % encoder_config.patch_size:
            raise ValueError(
                f"objective.mask_patch_size: expected a multiple of model.patch_size "
                f"{encoder_config.patch_size}, got {self.options.mask_patch_size}"
            )
        self._check_visible()
        decoder_sizes(
            self.options.decoder_embed_dim, self.options.decoder_num_heads, encoder_config.num_features
        )
        rows, cols = (-(-side // (self.unit // encoder_config.patch_size)) for side in encoder_config.grid)
        if math.ceil(rows * cols * self.options.mask_ratio) >= rows * cols:
            raise ValueError(
                f"objective.mask_ratio: {self.options.mask_ratio} hides all {rows * cols} units of "
                f"{self.unit} px in images of {encoder_config.image_size} px, so nothing is left to predict from; "
                "lower it or objective.mask_patch_size"
            )

    def _check_visible(self) -> None:
        if not self.only_visible:
            return
        stride = self.encoder_config.total_stride
        if self.unit % stride:
            raise ValueError(
                f"objective.mask_patch_size: with encoder_tokens=visible expected a multiple of the encoder's total "
                f"stride {stride}, so that no row stands for hidden and visible patches, got {self.unit}"
            )
        if self.decoder_depth == 0:
            raise ValueError(
                "objective.decoder_depth: with encoder_tokens=visible expected 1 or more, as a linear layer would see "
                "nothing of the image in hidden places, got 0"
            )

    @property
    def unit(self) -> int:
        """Side of a mask unit in pixels."""
        return int(self.options.mask_patch_size)

    @property
    def only_visible(self) -> bool:
        """Whether hidden tokens do not exist for the encoder."""
        return bool(self.options.encoder_tokens == "visible")

    @property
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        given = self.options.decoder_depth
        return int(self.only_visible) if given is None else int(given)

    def corrupt(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Add `mask` bool [h, w] over the patch grid, True = hidden and predicted; and `visible`, the others, where
        the encoder sees only these.

        sample["image"] is [C, H, W] with sides that are multiples of the patch size. ceil(mask_ratio * units)
        units are hidden; units at the far border may be cut by it.
        """
        p = self.encoder_config.patch_size
        _, height, width = sample["image"].shape
        mask = torch.from_numpy(
            unit_mask((height // p, width // p), self.unit // p, self.options.mask_ratio, rng)
        )
        return sample | {"mask": mask} | ({"visible": ~mask} if self.only_visible else {})

    @property
    def note(self) -> str | None:
        """What whoever shows or measures predictions has to say with them."""
        if not self.options.norm_target:
            return None
        return (
            "norm_target: predictions are in units of the mean and deviation around each pixel; for pictures and "
            "errors in data units those of the true image are put back in, which favours the model"
        )

    def build_head(self) -> "PixelHead":
        """Mask token and decoder."""
        config, options = self.encoder_config, self.options
        sizes = (
            config.embed_dim,
            config.num_features,
            config.in_chans,
            config.patch_size,
            config.total_stride,
        )
        decoder = None
        if self.decoder_depth:
            width, heads = decoder_sizes(
                options.decoder_embed_dim, options.decoder_num_heads, config.num_features
            )
            values = config.in_chans * config.total_stride**2
            decoder = BlockDecoder(config.num_features, width, self.decoder_depth, heads, values)
        if options.norm_target:
            return NormalizedPixelHead(
                *sizes, decoder=decoder, only_visible=self.only_visible, window=options.norm_target_window
            )
        return PixelHead(*sizes, decoder=decoder, only_visible=self.only_visible)


def unit_mask(grid: tuple[int, int], unit: int, mask_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """bool [h, w]: ceil(mask_ratio * units) of the unit x unit squares that tile the grid are True."""
    rows, cols = -(-grid[0] // unit), -(-grid[1] // unit)
    hidden = np.zeros(rows * cols, dtype=bool)
    hidden[rng.permutation(rows * cols)[: math.ceil(rows * cols * mask_ratio)]] = True
    mask = hidden.reshape(rows, cols).repeat(unit, axis=0).repeat(unit, axis=1)
    return np.ascontiguousarray(mask[: grid[0], : grid[1]])


class PixelHead(nn.Module):
    """Mask token in front of an image encoder and a pixel decoder behind it.

    Args:
        embed_dim: width of the encoder's first rows.
        num_features: width of its last rows.
        in_chans, patch_size: of the images.
        total_stride: pixels per side that one last row stands for.
        decoder: of Blocks, for in_chans * total_stride ** 2 values per last row; None: one linear layer.
        only_visible: plans are those of visible patches, and only these go through the encoder.
    """

    def __init__(
        self,
        embed_dim: int,
        num_features: int,
        in_chans: int,
        patch_size: int,
        total_stride: int,
        *,
        decoder: BlockDecoder | None = None,
        only_visible: bool = False,
    ) -> None:
        super().__init__()
        self.in_chans, self.patch_size, self.total_stride = in_chans, patch_size, total_stride
        self.mask_token = None if only_visible else nn.Parameter(torch.zeros(1, embed_dim))
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        # Output order (channel, row, column) of a total_stride square, which is PixelShuffle's.
        self.decoder = nn.Linear(num_features, in_chans * total_stride**2) if decoder is None else decoder

    def forward(
        self, encoder: PatchEncoder, patches: Tensor, plans: Any, mask: Tensor | None = None
    ) -> SignalOutput:
        """Hide, encode, predict.

        Args:
            encoder: of patches; its plans have `cover`.
            patches: [T, in_chans*p*p], normalised pixels.
            plans: the encoder's plans of the batch.
            mask: bool [T], True = hidden and predicted; None hides nothing (and sums nothing).

        Returns:
            loss_sum: sum of absolute errors over hidden values; num_targets: how many values those are;
            prediction: [T, in_chans*p*p] in the order of patches.
        """
        rows = encoder.encode(self.enter(encoder, patches, plans, mask), plans)
        return self.leave(encoder, rows, patches, plans, mask)

    def enter(self, encoder: PatchEncoder, patches: Tensor, plans: Any, mask: Tensor | None = None) -> Tensor:
        """Rows [T, C] for the encoder: embedded patches, hidden ones replaced; see `forward`."""
        x = encoder.embed(encoder.visible(patches, plans))
        if self.mask_token is None or mask is None:
            return x
        return torch.where(mask[:, None], self.mask_token.to(x.dtype), x)

    def leave(
        self, encoder: PatchEncoder, rows: Tensor, patches: Tensor, plans: Any, mask: Tensor | None = None
    ) -> SignalOutput:
        """What is predicted from the encoder's last rows [T', C], and the loss; see `forward`."""
        mask = no_mask(patches) if mask is None else mask
        prediction = self.predict(encoder, rows, plans)
        return masked_l1(prediction, patches, mask, prediction)

    @staticmethod
    def count(patches: Tensor, mask: Tensor | None = None) -> int:
        """num_targets of a batch, before anything is computed."""
        return 0 if mask is None else int(mask.sum()) * patches.shape[1]

    def predict(self, encoder: PatchEncoder, rows: Tensor, plans: Any) -> Tensor:
        """What the decoder says for every input patch, [T, in_chans*p*p]."""
        if isinstance(self.decoder, BlockDecoder):
            return self.per_patch(self.decoder(rows, plans.whole), plans)
        return self.per_patch(self.decoder(encoder.token_rows(rows, plans)), plans)

    def per_patch(self, squares: Tensor, plans: Any) -> Tensor:
        """Decoded squares [T_last, in_chans*s*s] of s = total_stride pixels -> input patches [T, in_chans*p*p]."""
        p, k = self.patch_size, self.total_stride // self.patch_size
        x = squares.view(-1, self.in_chans, k, p, k, p).permute(0, 2, 4, 1, 3, 5)
        return gather_rows(x.reshape(-1, self.in_chans * p * p), plans.cover)


def no_mask(patches: Tensor) -> Tensor:
    """bool [T], nothing hidden."""
    return patches.new_zeros(patches.shape[0], dtype=torch.bool)


def masked_l1(prediction: Tensor, target: Tensor, mask: Tensor, shown: Tensor) -> SignalOutput:
    """Absolute errors [T, C*p*p] summed over the rows of the mask; `shown` is returned as the prediction."""
    error = (prediction.to(target.dtype) - target).abs() * mask[:, None]
    return SignalOutput(
        loss_sum=error.sum(), num_targets=mask.sum() * target.shape[1], prediction=shown.detach()
    )


class NormalizedPixelHead(PixelHead):
    """Predicts pixels normalised by the mean and deviation of the square around each (Swin V2 with SimMIM).

    Args:
        sizes, decoder, only_visible: as in `PixelHead`.
        window: side of the square in pixels, odd.
    """

    def __init__(
        self, *sizes: int, window: int, decoder: BlockDecoder | None = None, only_visible: bool = False
    ) -> None:
        super().__init__(*sizes, decoder=decoder, only_visible=only_visible)
        self.window = window

    def forward(
        self,
        encoder: PatchEncoder,
        patches: Tensor,
        plans: Any,
        mask: Tensor | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> SignalOutput:
        """As `PixelHead.forward`; grids are (h, w) of every image in patches.

        loss_sum is in units of the normalised target. prediction is in units of `patches`: what the decoder
        says times the deviation plus the mean of the true image.
        """
        rows = encoder.encode(self.enter(encoder, patches, plans, mask), plans)
        return self.leave(encoder, rows, patches, plans, mask, grids)

    def leave(
        self,
        encoder: PatchEncoder,
        rows: Tensor,
        patches: Tensor,
        plans: Any,
        mask: Tensor | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> SignalOutput:
        """As `PixelHead.leave`; see `forward`."""
        if grids is None:
            raise ValueError("grids: norm_target needs (h, w) of every image in patches, got none")
        mask = no_mask(patches) if mask is None else mask
        mean, deviation = self.statistics(patches, grids)
        prediction = self.predict(encoder, rows, plans)
        return masked_l1(prediction, (patches - mean) / deviation, mask, prediction * deviation + mean)

    def statistics(self, patches: Tensor, grids: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation around every pixel, [T, in_chans*p*p] each."""
        p, start, parts = self.patch_size, 0, []
        for grid, run in itertools.groupby(grids):
            count = len(list(run))
            rows = patches[start : start + count * grid[0] * grid[1]]
            images = unpatchify(rows.view(count, -1, rows.shape[1]), grid, p, self.in_chans)
            parts.append([patchify(x, p).flatten(0, 1) for x in local_statistics(images, self.window)])
            start += len(rows)
        assert start == len(patches), "grids and patches are of different images"
        mean, deviation = (torch.cat(part) for part in zip(*parts, strict=True))
        return mean, deviation


def local_statistics(images: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the square around every pixel, in every channel.

    Args:
        images: [..., H, W].
        window: side of the square, odd; pixels outside the image do not count.

    Returns:
        Two tensors like images. The variance is the unbiased one (over count - 1), 1e-6 is added to it before
        the root; sums are in fp64.
    """
    x = images.double()
    count = box_sum(x.new_ones(x.shape[-2:]), window)
    mean = box_sum(x, window) / count
    variance = (box_sum(x.square(), window) / count - mean.square()) * count / (count - 1).clamp(min=1)
    return mean.to(images.dtype), (variance.clamp(min=0) + 1e-6).sqrt().to(images.dtype)


def box_sum(x: Tensor, window: int) -> Tensor:
    """Sums [..., H, W] over the window x window square around every entry, cut at the borders."""
    for axis in (-2, -1):
        n = x.shape[axis]
        place = torch.arange(n, device=x.device)
        sums = F.pad(x.cumsum(axis).movedim(axis, -1), (1, 0))
        first, end = (place - window // 2).clamp(min=0), (place + window // 2 + 1).clamp(max=n)
        x = (sums[..., end] - sums[..., first]).movedim(-1, axis)
    return x
