"""What image encoders share: images to packed rows, pooling, their output."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from unitrans.models._encoder import MapEncoder, Model, encoder_of
from unitrans.models.resize import resize_places
from unitrans.models.whole import Grid
from unitrans.nn import gather_rows, patchify


@dataclass
class EncoderOutput(ModelOutput):
    """last_hidden_state [T, C] packed rows of the last layer; pooler_output [B, C]; logits [B, labels]; loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None


class ImageEncoder(Model):
    """Base of the models that take images or packed rows with plans.

    Their configuration has patch_size, in_chans, grid, pads_images, check_grid(grid) and image_plans(grid).
    """

    main_input_name = "pixel_values"
    input_names = ("patches", "plans")
    embed: Callable[[Tensor], Tensor]
    #: Hidden tokens are replaced by a learned row of the objective.
    hides_by_vector = True

    def remember_plans(self) -> None:
        """Prepare the plans of image_size, so that tracing never meets the planner. Others are added by use."""
        self._plans_of_grid: dict[Grid, Any] = {self.config.grid: self.config.image_plans(self.config.grid)}

    def pack(self, pixel_values: Tensor) -> tuple[Tensor, Any]:
        """Images [B, in_chans, H, W] as the packed stream and its plans.

        Sides that are not multiples of the patch size get zeros at the right and bottom where the configuration pads
        (`pads_images`); else what does not fill a patch is left out there.

        Raises:
            ValueError: other channels than in_chans, or an image smaller than a patch.
        """
        if pixel_values.shape[1] != self.config.in_chans:
            raise ValueError(
                f"pixel_values: expected {self.config.in_chans} channels (in_chans), got {pixel_values.shape[1]}"
            )
        p, (batch, _, height, width) = self.config.patch_size, pixel_values.shape
        grid = self.map_grid(pixel_values)
        right, below = grid[1] * p - width, grid[0] * p - height
        if right or below:
            pixel_values = F.pad(pixel_values, (0, right, 0, below))  # negative ones cut
        patches = patchify(pixel_values, p)
        if grid not in self._plans_of_grid:
            self.config.check_grid(grid)
            self._plans_of_grid[grid] = self.config.image_plans(grid)
        return patches.flatten(0, 1), self._plans_of_grid[grid].to(pixel_values.device).repeat(batch)

    def map_grid(self, pixel_values: Tensor) -> Grid:
        """(h, w), the patches of every one of these images [B, in_chans, H, W]."""
        p, fill = self.config.patch_size, self.config.patch_size - 1 if self.config.pads_images else 0
        height, width = ((side + fill) // p for side in pixel_values.shape[2:])
        if not height or not width:
            raise ValueError(
                f"pixel_values: expected at least one patch of {p} x {p} px, got {list(pixel_values.shape[2:])}"
            )
        return height, width

    def packed(
        self,
        pixel_values: Tensor | None,
        patches: Tensor | None,
        plans: Any,
        interpolate_pos_encoding: bool = True,
    ) -> tuple[Tensor, Any]:
        """What forward was given, as the packed stream and its plans."""
        if pixel_values is not None:
            patches, plans = self.pack(pixel_values)
        elif patches is None or plans is None:
            raise ValueError("expected pixel_values, or patches together with plans")
        if not interpolate_pos_encoding and getattr(plans, "resized", None) is not None:
            raise ValueError(
                f"interpolate_pos_encoding: False expects images of image_size {self.config.image_size}, got others"
            )
        return patches, plans

    def embed_tokens(
        self, inputs: Mapping[str, Any], plans: Any, hidden: Tensor | None, mask_token: Tensor | None
    ) -> Tensor:
        """Embedded rows [T, C] of a batch, for `encode_blocks`.

        Args:
            inputs: patches [T, in_chans*p*p].
            plans: of the batch.
            hidden: bool [T], patches that are replaced by mask_token [1, C]; None: none.
        """
        x: Tensor = cast(Any, self).embed(inputs["patches"])
        if hidden is None:
            return x
        assert mask_token is not None
        return torch.where(hidden[:, None], mask_token.to(x.dtype), x)

    @staticmethod
    def visible(patches: Tensor, plans: Any) -> Tensor:
        """Those patches [T, in_chans*p*p] of whole images that the plans are made for."""
        return patches if plans.visible is None else gather_rows(patches, plans.visible)


class HasImageEncoder:
    """A model around an image encoder."""

    def forward_features(
        self, pixel_values: Tensor, out_indices: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Feature maps of the encoder for dense tasks; see its own `forward_features`."""
        encoder = encoder_of(self)
        if not isinstance(encoder, ImageEncoder):
            raise ValueError(
                f"forward_features: expected an encoder of images, got a {type(encoder).__name__}"
            )
        return cast(MapEncoder, encoder).forward_features(pixel_values, out_indices)


def with_positions(config: Any, grids: Sequence[Grid], plans: Any) -> Any:
    """The plans of images of these grids, with that for which absolute positions have to be resized.

    Raises:
        ValueError: images of several sizes, where absolute positions are not those of all.
    """
    others = {tuple(grid) for grid in grids} - {config.grid}
    if not config.ape or not others:
        return plans
    if len({tuple(grid) for grid in grids}) > 1:
        raise ValueError(
            f"images: with ape (absolute position embeddings) expected the patch grid {config.grid} of image_size "
            f"{config.image_size}, or another one for all images of a batch, got {sorted(others)[0]} among others"
        )
    return dataclasses.replace(plans, resized=others.pop())


def resized_positions(table: Tensor, config: Any, plans: Any, extra: int = 0) -> Tensor:
    """Absolute positions [rows, C] for these plans; extra: rows of tokens in front, which stay as they are."""
    if plans.resized is None:
        return table
    return torch.cat([table[:extra], resize_places(table[extra:], config.grid, plans.resized)])


def mean_per_sample(x: Tensor, sample_index: Tensor, counts: Tensor) -> Tensor:
    """Rows [T, C], the sample of every row [T] and the rows of every sample [B] -> means [B, C]."""
    total = x.new_zeros(counts.shape[0], x.shape[1]).index_add(0, sample_index, x)
    return total / counts[:, None].to(x.dtype)


def classified(output: EncoderOutput, head: nn.Module, labels: Tensor | None) -> EncoderOutput:
    """The logits of a classifier on the pooled rows of an encoder and, with labels int64 [B], their loss."""
    return with_loss(head(output.pooler_output), labels)


def with_loss(logits: Tensor, labels: Tensor | None) -> EncoderOutput:
    """Logits [B, K] and, with labels int64 [B], the mean cross-entropy as loss."""
    return EncoderOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)


def classifier(features: int, num_labels: int | None) -> nn.Module:
    """The last layer of a classifier of pooled rows; without classes they are what it gives, as in timm."""
    return nn.Linear(features, num_labels) if num_labels else nn.Identity()


def as_maps(x: Tensor, grid: Grid) -> Tensor:
    """Rows [B*h*w, C] of equal images -> maps [B, C, h, w]."""
    return x.view(-1, *grid, x.shape[-1]).permute(0, 3, 1, 2)


def pair(value: int | Sequence[int], name: str) -> Grid:
    """One number for both sides, or [height, width]; ValueError names the setting."""
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: expected one number or [height, width], got {value}")
    return int(value[0]), int(value[1])


def check_sizes(config: Any, *names: str) -> None:
    """ValueError naming the first of these settings that is not a positive number, or a list of such."""
    for name in names:
        value = getattr(config, name)
        if not all(
            n > 0 and math.isfinite(n) for n in (value if isinstance(value, (list, tuple)) else [value])
        ):
            raise ValueError(f"{name}: expected positive numbers, got {value}")


def check_rates(config: Any) -> None:
    """ValueError naming the first of the dropout rates that is not in [0, 1)."""
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(config, name)}")


def chosen(out_indices: Sequence[int] | None, count: int, what: str) -> list[int]:
    """Which of `count` stages or blocks are wanted, in their order; negative numbers count from the end."""
    wanted = range(count) if out_indices is None else out_indices
    for index in wanted:
        if not -count <= index < count:
            raise ValueError(
                f"out_indices: expected numbers of {what} from {-count} to {count - 1}, got {list(wanted)}"
            )
    return sorted({index % count for index in wanted})
