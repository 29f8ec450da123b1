"""Swin Transformer V2 (Liu et al., CVPR 2022, arXiv:2111.09883): the body of Swin with other arguments."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from unitrans.models.images import pair
from unitrans.models.swin import SwinBackbone, SwinConfig, SwinForImageClassification, SwinModel
from unitrans.models.swin_plans import Grid
from unitrans.nn import LogSpacedPositionBias


class Swinv2Config(SwinConfig):
    """Configuration of a Swin V2 encoder; the defaults are SwinV2-T at 256 px. All else is as in `SwinConfig`.

    Attributes:
        qk_scale: None; cosine attention learns its factor.
        qkv_bias: bias of queries and values; keys have none.
        pretrained_window_sizes: per stage the window that the weights were trained with, one number or
            [height, width], by which offsets are measured; 0 is the stage's own window.
        extra_norm_period: a LayerNorm on the stream behind every so many blocks of a stage (6 in the sizes H
            and G); 0 is none.
    """

    model_type = "unitrans-swinv2"

    image_size: int | list[int] | tuple[int, ...] = 256
    window_size: int | list[int] | tuple[int, ...] = 8
    drop_path_rate: float = 0.2
    pretrained_window_sizes: list[Any] | tuple[Any, ...] = (0, 0, 0, 0)
    extra_norm_period: int = 0

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.qk_scale is not None:
            raise ValueError(f"qk_scale: expected null, as Swin V2 learns its factor, got {self.qk_scale}")
        if any(min(window) < 0 for window in self.trained_windows):
            raise ValueError(
                f"pretrained_window_sizes: expected 0 or more, got {list(self.pretrained_window_sizes)}"
            )
        if self.extra_norm_period < 0:
            raise ValueError(f"extra_norm_period: expected 0 or more, got {self.extra_norm_period}")

    @property
    def trained_windows(self) -> tuple[Grid, ...]:
        """`pretrained_window_sizes` of all stages; those not given are 0."""
        given: Sequence[Any] = self.pretrained_window_sizes
        rest = [0] * (self.num_stages - len(given))
        if not rest and any(any(pair(size, "pretrained_window_sizes")) for size in given[self.num_stages :]):
            raise ValueError(
                f"pretrained_window_sizes: expected one per stage ({self.num_stages}), got {list(given)}"
            )
        sizes = [*given[: self.num_stages], *rest]
        return tuple(pair(size, "pretrained_window_sizes") for size in sizes)

    @property
    def measured_windows(self) -> list[int | list[int]]:
        """Per stage the window by which offsets are measured, as `pretrained_window_sizes` takes it."""
        sizes = (
            trained if min(trained) > 0 else own
            for own, trained in zip(self.stage_windows, self.trained_windows, strict=True)
        )
        return [height if height == width else [height, width] for height, width in sizes]

    def block_options(self, stage: int) -> dict[str, Any]:
        """What makes the blocks of a stage those of V2: arguments of `Block`, a bias module for each."""
        bias = self.position_bias(stage)
        return {"norm": "res-post", "qk_norm": True, "key_bias": False, "position_bias": bias}

    def position_bias(self, stage: int) -> nn.Module | None:
        """A fresh module for the relative positions of a block of this stage, if there are any."""
        if self.relative_position == "none":
            return None
        return LogSpacedPositionBias(
            self.stage_windows[stage], self.num_heads[stage], self.trained_windows[stage]
        )

    def has_extra_norm(self, block: int) -> bool:
        """Whether this block of a stage has a LayerNorm on the stream behind it."""
        return self.extra_norm_period > 0 and (block + 1) % self.extra_norm_period == 0

    @property
    def merge_norm_last(self) -> bool:
        """Whether a merge projects before it normalises."""
        return True


def keep_measure(config: Any, source: Any) -> None:
    """Lets weights of Swin V2 that were trained as `source` measure offsets in `config` as they did there: the network
    of position biases is evaluated again for other windows. Nothing for other models, and where it does not matter."""
    if not isinstance(config, Swinv2Config) or not isinstance(source, Swinv2Config):
        return
    if config.measured_windows != source.measured_windows and config.num_stages == source.num_stages:
        config.pretrained_window_sizes = source.measured_windows


class Swinv2Model(SwinModel):
    """The Swin V2 encoder."""

    config_class = Swinv2Config


class Swinv2ForImageClassification(SwinForImageClassification):
    """Swin V2 with a linear classifier on the mean of the last stage."""

    config_class = Swinv2Config


class Swinv2Backbone(SwinBackbone):
    """Swin V2 for dense tasks."""

    config_class = Swinv2Config
