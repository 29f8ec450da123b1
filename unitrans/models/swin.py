"""Swin Transformer (Liu et al., ICCV 2021, arXiv:2103.14030) on the one Block; `swinv2` is the same by arguments.

Windows and shifted windows are plans of the same token stream: nothing is rolled, padded or partitioned.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from unitrans.models.images import (
    EncoderOutput,
    HasImageEncoder,
    ImageEncoder,
    as_maps,
    check_rates,
    check_sizes,
    chosen,
    classified,
    mean_per_sample,
    pair,
)
from unitrans.models.swin_plans import (
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
from unitrans.nn import Attention, Block, PatchEmbed, PatchMerging, RelativePositionBias, RowMap, gather_rows

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
        ape: learned absolute position embeddings, which bind the model to image_size.
        relative_position: the learned bias by relative position, per_layer (published) or none.
        patch_norm: LayerNorm after the patch embedding.
        layer_norm_eps: of all LayerNorms.
        pad_mode: what becomes of maps that windows do not tile. none: their border windows are smaller;
            pad_then_roll: rows of zeros, which take part in the attention, are added at the right and bottom
            before the cyclic shift (official detection code, transformers, torchvision); roll_then_pad: after
            it (timm). With pad_then_roll, images are filled up to whole patches too (not
            with the window_clamp padded: torchvision leaves out what does not fill a patch).
        window_clamp: what becomes of windows larger than the map of their stage at image_size. min: both
            sides shrink to the smaller side of the map, and a map that fits in one is not shifted (official);
            per_axis: each side for itself, shift fixed by image_size (timm); per_axis_floor: the same for maps
            whose sides are rounded down from stage to stage, although the real ones are rounded up
            (transformers' V2, timm before 1.0.31); padded: never smaller, no shift along an axis that one window
            covers (torchvision); never: never smaller and always shifted (transformers' backbone).
        out_indices: the stages whose maps a backbone returns; none given means all.
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
        """Whether images are filled up to whole patches."""
        return self.pad_mode == "pad_then_roll" and self.window_clamp != "padded"

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
        return image_plans(grid, self.window_rules, self.pad_mode)

    def plans(self, grids: Sequence[Grid], visible: Sequence[Tensor] | None = None) -> SwinPlans:
        """The plans of a batch of images, in the order of the stream.

        Args:
            grids: (h, w) of each image in patches.
            visible: bool [h, w] of each image: only these patches exist, the others are neither embedded nor
                attended to. They come in whole units of total_stride pixels. None: all.

        Raises:
            ValueError: an image of another size than image_size where absolute positions fix it; parts of units.
        """
        for grid in grids:
            self.check_grid(grid)
        grids = tuple((int(h), int(w)) for h, w in grids)
        if visible is not None:
            return batch_visible_plans(grids, visible, self.window_rules, self.pad_mode)
        return batch_plans(grids, self.window_rules, self.pad_mode)

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
        """Raises ValueError if images of this many patches cannot be fed."""
        if self.ape and tuple(grid) != self.grid:
            raise ValueError(
                f"images: with ape (absolute position embeddings) expected the patch grid {self.grid} of "
                f"image_size {self.image_size}, got {tuple(grid)}"
            )


class SwinStage(nn.Module):
    """The blocks of one resolution, then the merge to the next."""

    def __init__(self, config: SwinConfig, stage: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        dim, heads = config.stage_dim(stage), config.num_heads[stage]
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                drop_path=rate,
                eps=config.layer_norm_eps,
                extra_norm=config.has_extra_norm(number),
                **config.block_options(stage),
            )
            for number, rate in enumerate(drop_path)
        )
        last = stage == config.num_stages - 1
        self.downsample = (
            None if last else PatchMerging(dim, norm_last=config.merge_norm_last, eps=config.layer_norm_eps)
        )

    def merge(self, x: Tensor, rows: RowMap) -> Tensor:
        """x [T_s, C] -> [T_{s+1}, 2C], the rows of the next stage."""
        assert self.downsample is not None, "the last stage has no merge"
        return self.downsample(gather_rows(x, rows))

    def forward(self, x: Tensor, plans: SwinPlans, stage: int) -> Tensor:
        """x [T_s, C] -> [T_s, C], before the merge."""
        index, num_samples = plans.sample_index[stage], plans.token_counts.shape[0]
        for number, block in enumerate(self.blocks):
            plan, pads = (
                (plans.shifted[stage], plans.shifted_pads[stage])
                if number % 2
                else (plans.windows[stage], plans.window_pads[stage])
            )
            x = block(x, plan, sample_index=index, num_samples=num_samples, pads=pads)
        return x


class SwinPreTrainedModel(ImageEncoder):
    config_class = SwinConfig
    base_model_prefix = "swin"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Official initialisation: truncated normal of .02 for linear layers and tables, convolutions as torch."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, RelativePositionBias, Attention, Block)):
            module.reset_parameters()
        elif isinstance(module, SwinModel) and module.absolute_pos_embed is not None:
            nn.init.trunc_normal_(module.absolute_pos_embed, std=0.02)

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        """Parts of parameter names that are not decayed (beside biases and norms), as in the official recipe."""
        return ("relative_position_bias_table", "cpb_mlp", "logit_scale")

    @staticmethod
    def no_weight_decay() -> set[str]:
        """Names of parameters of the encoder that are never decayed."""
        return {"absolute_pos_embed"}


class SwinModel(SwinPreTrainedModel):
    """The Swin encoder.

    Example:
        >>> model = SwinModel(SwinConfig())
        >>> model(torch.rand(2, 3, 224, 224)).pooler_output.shape
        torch.Size([2, 768])
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        eps = config.layer_norm_eps
        self.patch_embed = PatchEmbed(
            config.patch_size, config.in_chans, config.embed_dim, norm=config.patch_norm, eps=eps
        )
        self.absolute_pos_embed = (
            nn.Parameter(torch.zeros(1, config.grid[0] * config.grid[1], config.embed_dim))
            if config.ape
            else None
        )
        self.pos_drop = nn.Dropout(config.drop_rate)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        starts = [sum(config.depths[:stage]) for stage in range(config.num_stages)]
        self.layers = nn.ModuleList(
            SwinStage(config, stage, rates[start : start + depth])
            for stage, (start, depth) in enumerate(zip(starts, config.depths, strict=True))
        )
        self.norm = nn.LayerNorm(config.num_features, eps=eps)
        self.remember_plans()
        self.post_init()

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart."""
        return sum(self.config.depths) + 2

    def layer_id(self, name: str) -> int:
        """The layer of a parameter as in SimMIM's fine-tuning: patch embedding 0, block i is i + 1, a merge belongs to
        the block before it, the rest to the last."""
        if name.startswith("patch_embed."):
            return 0
        if not name.startswith("layers."):
            return self.num_layers - 1
        _, stage, part, block, *_ = name.split(".")
        if part == "downsample":
            return sum(self.config.depths[: int(stage) + 1])
        return sum(self.config.depths[: int(stage)]) + int(block) + 1

    def embed(self, patches: Tensor) -> Tensor:
        """patches [T, in_chans*p*p] as `patchify` makes them -> rows [T, C]."""
        return self.patch_embed(patches)

    def encode(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Embedded rows [T, C] through all stages and the final norm -> [T_last, num_features]."""
        return self.norm(self.encode_stages(x, plans)[-1])

    def encode_rows(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """The same: all rows are those of patches."""
        return self.encode(x, plans)

    def token_rows(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Last rows [T_last, C] -> those of patches: all of them."""
        return x

    def encode_stages(self, x: Tensor, plans: SwinPlans) -> list[Tensor]:
        """Embedded rows [T, C] -> the rows [T_s, C_s] of every stage, before its merge and without final norm."""
        if self.absolute_pos_embed is not None:
            x = x + F.embedding(plans.place, self.absolute_pos_embed[0])
        x = self.pos_drop(x)
        stages = []
        for number, stage in enumerate(self.layers):
            assert isinstance(stage, SwinStage)
            x = stage(x, plans, number)
            stages.append(x)
            if number < len(plans.merges):
                x = stage.merge(x, plans.merges[number])
        return stages

    def forward_features(
        self, pixel_values: Tensor, out_indices: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Feature maps for dense tasks.

        Args:
            pixel_values: [B, in_chans, H, W].
            out_indices: stages, negative ones from the end; None: all.

        Returns:
            [B, C_s, h_s, w_s] of each wanted stage: the rows before its merge, not normalised.
        """
        patches, plans = self.pack(pixel_values)
        p = self.config.patch_size
        grid, maps = (-(-pixel_values.shape[2] // p), -(-pixel_values.shape[3] // p)), []
        for x in self.encode_stages(self.embed(patches), plans):
            maps.append(as_maps(x, grid))
            grid = half(grid)
        return [maps[stage] for stage in chosen(out_indices, self.config.num_stages, "stages")]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        plans: SwinPlans | None = None,
    ) -> EncoderOutput:
        """Images, or the packed stream.

        Args:
            pixel_values: [B, in_chans, H, W], sides multiples of patch_size unless pad_mode fills them up.
            patches, plans: instead of pixel_values, rows [T, in_chans*p*p] and `config.plans(grids)`; with plans of
                visible patches all patches are given and these are taken.

        Returns:
            last_hidden_state [T_last, C] (after the final norm) and pooler_output [B, C], its mean per image.
        """
        patches, plans = self.packed(pixel_values, patches, plans)
        x = self.features(patches, plans)
        return EncoderOutput(last_hidden_state=x, pooler_output=self.pool(x, plans))

    def features(self, patches: Tensor, plans: SwinPlans) -> Tensor:
        """patches [T, in_chans*p*p] -> rows [T_last, C] behind the final norm, as `pool` takes them."""
        return self.encode(self.embed(self.visible(patches, plans)), plans)

    def pool(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Rows [T_last, C] -> their mean per image [B, C]."""
        return mean_per_sample(x, plans.sample_index[-1], plans.token_counts)


class SwinForImageClassification(HasImageEncoder, SwinPreTrainedModel):
    """Swin with a linear classifier on the mean of the last stage."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.swin = SwinModel(config)
        self.head = nn.Linear(config.num_features, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        patches: Tensor | None = None,
        plans: SwinPlans | None = None,
    ) -> EncoderOutput:
        """As `SwinModel.forward`; labels int64 [B] give the mean cross-entropy as loss."""
        return classified(self.swin(pixel_values, patches, plans), self.head, labels)


class SwinBackbone(HasImageEncoder, SwinPreTrainedModel):
    """Swin for dense tasks: the maps of `config.out_indices`, each with a LayerNorm of its own (`config.out_norm`).

    Attributes:
        unused_parameters: names of parameters that weights need not have; the encoder's final norm is not used here.
    """

    unused_parameters = ("swin.norm.weight", "swin.norm.bias")

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.swin = SwinModel(config)
        self.stages = chosen(config.out_indices, config.num_stages, "stages")
        self.out_norms = nn.ModuleDict(
            {
                str(stage): nn.LayerNorm(config.stage_dim(stage), eps=config.layer_norm_eps)
                for stage in self.stages
                if config.out_norm
            }
        )
        self.post_init()

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values [B, in_chans, H, W] -> [B, C_s, h_s, w_s] of each wanted stage."""
        maps = self.swin.forward_features(pixel_values, self.stages)
        if not self.config.out_norm:
            return maps
        return [
            self.out_norms[str(stage)](x.movedim(1, -1)).movedim(-1, 1)
            for stage, x in zip(self.stages, maps, strict=True)
        ]
