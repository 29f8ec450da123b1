"""Swin Transformer, V1 and V2, on the one Block.

Windows and shifted windows are plans of the same token stream: nothing is rolled, padded or partitioned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models.images import (
    EncoderOutput,
    HasImageEncoder,
    ImageEncoder,
    as_maps,
    chosen,
    classified,
    classifier,
    mean_per_sample,
    resized_positions,
)
from unitrans.models.swin.config import SwinConfig, Swinv2Config
from unitrans.models.swin.plans import SwinPlans, half
from unitrans.nn import Attention, Block, PatchEmbed, PatchMerging, RelativePositionBias, RowMap, gather_rows


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

    def token_rows(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Last rows [T_last, C] -> those of patches: all of them."""
        return x

    def encode_stages(self, x: Tensor, plans: SwinPlans) -> list[Tensor]:
        """Embedded rows [T, C] -> the rows [T_s, C_s] of every stage, before its merge and without final norm."""
        return self.through_stages(self.enter(x, plans), plans)

    def enter(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Embedded rows [T, C] -> rows [T, C] in front of the stages: with absolute positions where there are any."""
        if self.absolute_pos_embed is not None:
            x = x + F.embedding(
                plans.place, resized_positions(self.absolute_pos_embed[0], self.config, plans)
            )
        return self.pos_drop(x)

    def through_stages(self, x: Tensor, plans: SwinPlans) -> list[Tensor]:
        """Rows [T, C] in front of the stages -> as `encode_stages`."""
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
        wanted = chosen(out_indices, self.config.num_stages, "stages")
        maps = self.all_maps(pixel_values)
        return [maps[1 + stage] for stage in wanted]

    def all_maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Images [B, in_chans, H, W] -> the map [B, C, h, w] in front of the stages, then those of all stages."""
        patches, plans = self.pack(pixel_values)
        x, grid = self.enter(self.embed(patches), plans), self.map_grid(pixel_values)
        maps = [as_maps(x, grid)]
        for rows in self.through_stages(x, plans):
            maps.append(as_maps(rows, grid))
            grid = half(grid)
        return maps

    def forward(
        self,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        plans: SwinPlans | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> EncoderOutput:
        """Images, or the packed stream.

        Args:
            pixel_values: [B, in_chans, H, W], of any size: filled up to whole patches, or cut (`config.pad_mode`).
            patches, plans: instead of pixel_values, rows [T, in_chans*p*p] and `config.plans(grids)`; with plans of
                visible patches all patches are given and these are taken.
            interpolate_pos_encoding: absolute positions are resized for images of another size than image_size; False:
                such images are an error.

        Returns:
            last_hidden_state [T_last, C] (after the final norm) and pooler_output [B, C], its mean per image.
        """
        patches, plans = self.packed(pixel_values, patches, plans, interpolate_pos_encoding)
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
        self.head = classifier(config.num_features, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        patches: Tensor | None = None,
        plans: SwinPlans | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> EncoderOutput:
        """As `SwinModel.forward`; labels int64 [B] give the mean cross-entropy as loss."""
        return classified(
            self.swin(pixel_values, patches, plans, interpolate_pos_encoding), self.head, labels
        )


class SwinBackbone(HasImageEncoder, SwinPreTrainedModel):
    """Swin for dense tasks: the maps of `config.out_indices`, each with a LayerNorm of its own (`config.out_norm`), and
    in front of them that of the embedded patches where `config.out_stem` asks for it.

    Attributes:
        unused_parameters: names of parameters that weights need not have; the encoder's final norm is not used here.
    """

    unused_parameters = ("swin.norm.weight", "swin.norm.bias")

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.swin = SwinModel(config)
        self.stages = chosen(config.out_indices, config.num_stages, "stages")
        widths = {"stem": config.embed_dim} if config.out_stem else {}
        widths |= {str(stage): config.stage_dim(stage) for stage in self.stages}
        self.out_norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(dim, eps=config.layer_norm_eps)
                for name, dim in widths.items()
                if config.out_norm
            }
        )
        self.post_init()

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values [B, in_chans, H, W] -> [B, C_s, h_s, w_s] of the stem, if wanted, and each wanted stage."""
        stem, *stages = self.swin.all_maps(pixel_values)
        maps = [stem] * self.config.out_stem + [stages[stage] for stage in self.stages]
        if not self.config.out_norm:
            return maps
        norms = self.out_norms.values()
        return [norm(x.movedim(1, -1)).movedim(-1, 1) for norm, x in zip(norms, maps, strict=True)]


class Swinv2Model(SwinModel):
    """The Swin V2 encoder."""

    config_class = Swinv2Config


class Swinv2ForImageClassification(SwinForImageClassification):
    """Swin V2 with a linear classifier on the mean of the last stage."""

    config_class = Swinv2Config


class Swinv2Backbone(SwinBackbone):
    """Swin V2 for dense tasks."""

    config_class = Swinv2Config
