"""Configurations of Swin Transformer (Liu et al., ICCV 2021, arXiv:2103.14030) and of Swin Transformer V2 (Liu et al.,
CVPR 2022, arXiv:2111.09883), which is the body of the first with other arguments."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from transformers import PreTrainedConfig

from unitrans.models.images import check_rates, check_sizes, pair, with_positions
from unitrans.models.swin.plans import (
    Grid,
    PadMode,
    StageWindow,
    SwinPlans,
    WindowClamp,
    batch_plans,
    batch_visible_plans,
    half,
    image_plans,
)
from unitrans.nn import LogSpacedPositionBias, RelativePositionBias

RelativePosition = Literal["none", "per_layer"]


class SwinConfig(PreTrainedConfig):
    """Configuration of a Swin encoder; the defaults are Swin-T at 224 px.

    Attributes:
        image_size: pixels, one number or [height, width]. It fixes the window of stages whose map would be
            smaller than the window, hence the size of their bias tables; other sizes can be fed all the same.
        patch_size: pixels per side of a patch.
        in_chans: image channels.
        embed_dim: channels of the first stage; doubles with every stage.
        depths, num_heads: blocks and heads of each stage.
        window_size: tokens per side, one number or [height, width].
        mlp_ratio: hidden width of the MLPs over the channels.
        qkv_bias: bias of the qkv projections.
        qk_scale: factor on the scores; None is head_dim ** -0.5.
        drop_rate, attn_drop_rate, drop_path_rate: dropout of projections, of attention weights, and the
            stochastic depth of the last block (it grows linearly from 0).
        ape: learned absolute position embeddings, of image_size; for other images they are resized (bicubic), as
            transformers does with interpolate_pos_encoding.
        relative_position: the learned bias by relative position, per_layer (published) or none.
        patch_norm: LayerNorm after the patch embedding.
        layer_norm_eps: of all LayerNorms.
        pad_mode: what becomes of maps that windows do not tile. none: their border windows are smaller;
            pad_then_roll: rows of zeros, which take part in the attention, are added at the right and bottom
            before the cyclic shift (official detection code, transformers, torchvision); roll_then_pad: after
            it (timm). Images are filled up to whole patches with zeros; with roll_then_pad, and with the window_clamp
            padded, what does not fill a patch is left out, as timm and torchvision do.
        window_clamp: what becomes of windows larger than the map of their stage at image_size. min: both
            sides shrink to the smaller side of the map, and a map that fits in one is not shifted (official);
            per_axis: each side for itself, shift fixed by image_size (timm); per_axis_floor: the same for maps
            whose sides are rounded down from stage to stage, although the real ones are rounded up
            (transformers' V2, timm before 1.0.31); padded: never smaller, no shift along an axis that one window
            covers (torchvision); never: never smaller and always shifted (transformers' backbone).
        out_indices: the stages whose maps a backbone returns; none given means all.
        out_stem: whether a backbone returns the embedded patches in front of them too (transformers' stem).
        out_norm: whether a backbone has a LayerNorm for each of its maps (transformers' V2 has none).
    """

    model_type = "unitrans-swin"

    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int = 4
    in_chans: int = 3
    embed_dim: int = 96
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | list[int] | tuple[int, ...] = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    ape: bool = False
    relative_position: RelativePosition = "per_layer"
    patch_norm: bool = True
    layer_norm_eps: float = 1e-5
    pad_mode: PadMode = "none"
    window_clamp: WindowClamp = "min"
    out_indices: list[int] | tuple[int, ...] | None = None
    out_stem: bool = False
    out_norm: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        check_sizes(self, "patch_size", "in_chans", "embed_dim", "depths", "num_heads", "mlp_ratio")
        check_rates(self)
        if not self.depths:
            raise ValueError("depths: expected the number of blocks of each stage, such as [2, 2], got []")
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"num_heads: expected one number per stage like depths {list(self.depths)}, "
                f"got {list(self.num_heads)}"
            )
        for name in ("image_size", "window_size"):
            if min(pair(getattr(self, name), name)) < 1:
                raise ValueError(f"{name}: expected positive numbers, got {getattr(self, name)}")
        choices = {"pad_mode": PadMode, "window_clamp": WindowClamp, "relative_position": RelativePosition}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        for stage, heads in enumerate(self.num_heads):
            if self.stage_dim(stage) % heads:
                raise ValueError(
                    f"num_heads: expected divisors of the widths, but stage {stage} is "
                    f"{self.stage_dim(stage)} wide (embed_dim {self.embed_dim}) and has {heads} heads"
                )

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.stage_dim(self.num_stages - 1)

    @property
    def total_stride(self) -> int:
        """Pixels per side that one row of the last stage stands for."""
        return self.patch_size * 2 ** (self.num_stages - 1)

    @property
    def grid(self) -> Grid:
        """Patches per column and row at `image_size`."""
        height, width = pair(self.image_size, "image_size")
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def stage_dim(self, stage: int) -> int:
        """Channels of a stage."""
        return int(self.embed_dim) * 2**stage

    @property
    def pads_images(self) -> bool:
        """Whether images are filled up to whole patches; False: what does not fill one is left out."""
        return self.pad_mode != "roll_then_pad" and self.window_clamp != "padded"

    @property
    def stage_windows(self) -> tuple[Grid, ...]:
        """The window of each stage, which fixes the size of its bias."""
        return tuple(window.size for window in self.window_rules)

    @property
    def window_rules(self) -> tuple[StageWindow, ...]:
        """The window and the shift of each stage by `window_clamp`."""
        window, grid, rules = pair(self.window_size, "window_size"), self.grid, []
        for stage in range(self.num_stages):
            size = window
            if self.window_clamp == "min":
                size = min(window[0], *grid), min(window[1], *grid)
            shift = size[0] // 2, size[1] // 2
            if self.window_clamp in ("per_axis", "per_axis_floor"):
                rows, cols = grid if self.window_clamp == "per_axis" else self._floored_grid(stage)
                size = min(window[0], rows), min(window[1], cols)
                shift = window[0] // 2 * (rows > window[0]), window[1] // 2 * (cols > window[1])
            rules.append(StageWindow(size, shift, self.window_clamp))
            grid = half(grid)
        return tuple(rules)

    def _floored_grid(self, stage: int) -> Grid:
        height, width = pair(self.image_size, "image_size")
        scale = self.patch_size * 2**stage
        return max(height // scale, 1), max(width // scale, 1)

    def image_plans(self, grid: Grid) -> SwinPlans:
        """The plans of one image of this many patches per column and row."""
        return with_positions(self, [grid], image_plans(grid, self.window_rules, self.pad_mode))

    def plans(self, grids: Sequence[Grid], visible: Sequence[Tensor] | None = None) -> SwinPlans:
        """The plans of a batch of images, in the order of the stream.

        Args:
            grids: (h, w) of each image in patches.
            visible: bool [h, w] of each image: only these patches exist, the others are neither embedded nor
                attended to. They come in whole units of total_stride pixels. None: all.

        Raises:
            ValueError: images of several sizes where absolute positions are made for one; parts of units.
        """
        grids = tuple((int(h), int(w)) for h, w in grids)
        if visible is not None:
            plans = batch_visible_plans(grids, visible, self.window_rules, self.pad_mode)
        else:
            plans = batch_plans(grids, self.window_rules, self.pad_mode)
        return with_positions(self, grids, plans)

    def block_options(self, stage: int) -> dict[str, Any]:
        """What makes the blocks of a stage those of V1: arguments of `Block`, a bias module for each."""
        return {"norm": "pre", "scale": self.qk_scale, "position_bias": self.position_bias(stage)}

    def position_bias(self, stage: int) -> nn.Module | None:
        """A fresh module for the relative positions of a block of this stage, if there are any."""
        if self.relative_position == "none":
            return None
        return RelativePositionBias(self.stage_windows[stage], self.num_heads[stage])

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in other code bases. ValueError for a model that none of them has."""
        if self.relative_position != "per_layer":
            raise ValueError(
                "relative_position: other code bases have Swin with 'per_layer' only, got "
                f"{self.relative_position!r}"
            )
        return str(self.model_type.removeprefix("unitrans-"))

    def has_extra_norm(self, block: int) -> bool:
        """Whether this block of a stage has a LayerNorm on the stream behind it."""
        return False

    @property
    def merge_norm_last(self) -> bool:
        """Whether a merge projects before it normalises."""
        return False

    def check_grid(self, grid: Grid) -> None:
        """Images of any size can be fed."""


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

    def kept_settings(self) -> dict[str, Any]:
        """What weights that were trained like this are to be read with whatever the windows become: the network of
        position biases is evaluated again for others, by the measure it was trained with."""
        return {"pretrained_window_sizes": self.measured_windows}

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
