"""Swin Transformer V1 (Liu et al., ICCV 2021, arXiv:2103.14030) on the one Block.

Windows and shifted windows are plans of the same token stream: nothing is rolled, padded or partitioned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from unitrans.models.swin_plans import Grid, SwinPlans, batch_plans, half, image_plans
from unitrans.nn import Block, PatchEmbed, PatchMerging, RelativePositionBias, RowMap, gather_rows, patchify


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
        patch_norm: LayerNorm after the patch embedding.
        layer_norm_eps: of all LayerNorms.
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
    patch_norm: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"num_heads: expected one number per stage like depths {list(self.depths)}, "
                f"got {list(self.num_heads)}"
            )
        for name in ("image_size", "window_size"):
            if min(_pair(getattr(self, name), name)) < 1:
                raise ValueError(f"{name}: expected positive numbers, got {getattr(self, name)}")
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
        height, width = _pair(self.image_size, "image_size")
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def stage_dim(self, stage: int) -> int:
        """Channels of a stage."""
        return int(self.embed_dim) * 2**stage

    @property
    def stage_windows(self) -> tuple[Grid, ...]:
        """The window of each stage: never larger than the smaller side of its map (the official rule)."""
        window, grid, windows = _pair(self.window_size, "window_size"), self.grid, []
        for _ in self.depths:
            windows.append((min(window[0], *grid), min(window[1], *grid)))
            grid = half(grid)
        return tuple(windows)

    def plans(self, grids: Sequence[Grid]) -> SwinPlans:
        """The plans of a batch of images, in the order of the stream.

        Args:
            grids: (h, w) of each image in patches.

        Raises:
            ValueError: an image of another size than image_size where absolute positions fix it.
        """
        for grid in grids:
            self.check_grid(grid)
        return batch_plans(tuple((int(h), int(w)) for h, w in grids), self.stage_windows)

    def check_grid(self, grid: Grid) -> None:
        """Raises ValueError if images of this many patches cannot be fed."""
        if self.ape and tuple(grid) != self.grid:
            raise ValueError(
                f"images: with ape (absolute position embeddings) expected the patch grid {self.grid} of "
                f"image_size {self.image_size}, got {tuple(grid)}"
            )


def _pair(value: int | Sequence[int], name: str) -> Grid:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: expected one number or [height, width], got {value}")
    return int(value[0]), int(value[1])


@dataclass
class SwinOutput(ModelOutput):
    """last_hidden_state [T, C] packed rows of the last stage; pooler_output [B, C]; logits [B, labels]; loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None


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
                scale=config.qk_scale,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                drop_path=rate,
                eps=config.layer_norm_eps,
                position_bias=RelativePositionBias(config.stage_windows[stage], heads),
            )
            for rate in drop_path
        )
        last = stage == config.num_stages - 1
        self.downsample = None if last else PatchMerging(dim, eps=config.layer_norm_eps)

    def merge(self, x: Tensor, rows: RowMap) -> Tensor:
        """x [T_s, C] -> [T_{s+1}, 2C], the rows of the next stage."""
        assert self.downsample is not None, "the last stage has no merge"
        return self.downsample(gather_rows(x, rows))

    def forward(self, x: Tensor, plans: SwinPlans, stage: int) -> Tensor:
        """x [T_s, C] -> [T_s, C], before the merge."""
        index, num_samples = plans.sample_index[stage], plans.token_counts.shape[0]
        for number, block in enumerate(self.blocks):
            plan = plans.shifted[stage] if number % 2 else plans.windows[stage]
            x = block(x, plan, sample_index=index, num_samples=num_samples)
        return x


class SwinPreTrainedModel(PreTrainedModel):
    config_class = SwinConfig
    base_model_prefix = "swin"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Official initialisation: truncated normal of .02 for linear layers and tables, convolutions as torch."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, RelativePositionBias):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, SwinModel) and module.absolute_pos_embed is not None:
            nn.init.trunc_normal_(module.absolute_pos_embed, std=0.02)

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        """Parts of parameter names that are not decayed (beside biases and norms), as in the official recipe."""
        return ("relative_position_bias_table", "absolute_pos_embed")


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
        # By geometry. That of image_size is there from the start, so that tracing never meets the planner.
        self._plans_of_grid = {config.grid: image_plans(config.grid, config.stage_windows)}
        self.post_init()

    def embed(self, patches: Tensor) -> Tensor:
        """patches [T, in_chans*p*p] as `patchify` makes them -> rows [T, C]."""
        return self.patch_embed(patches)

    def encode(self, x: Tensor, plans: SwinPlans) -> Tensor:
        """Embedded rows [T, C] through all stages and the final norm -> [T_last, num_features]."""
        return self.norm(self.encode_stages(x, plans)[-1])

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

    def pack(self, pixel_values: Tensor) -> tuple[Tensor, SwinPlans]:
        """Images [B, in_chans, H, W] as the packed stream and its plans."""
        batch, channels, height, width = pixel_values.shape
        if channels != self.config.in_chans:
            raise ValueError(
                f"pixel_values: expected {self.config.in_chans} channels (in_chans), got {channels}"
            )
        p = self.config.patch_size
        patches, grid = patchify(pixel_values, p), (height // p, width // p)
        if grid not in self._plans_of_grid:
            self.config.check_grid(grid)
            self._plans_of_grid[grid] = image_plans(grid, self.config.stage_windows)
        return patches.flatten(0, 1), self._plans_of_grid[grid].to(pixel_values.device).repeat(batch)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        plans: SwinPlans | None = None,
    ) -> SwinOutput:
        """Images, or the packed stream.

        Args:
            pixel_values: [B, in_chans, H, W], sides multiples of patch_size.
            patches, plans: instead of pixel_values, rows [T, in_chans*p*p] and `config.plans(grids)`.

        Returns:
            last_hidden_state [T_last, C] (after the final norm) and pooler_output [B, C], its mean per image.
        """
        if pixel_values is not None:
            patches, plans = self.pack(pixel_values)
        if patches is None or plans is None:
            raise ValueError("expected pixel_values, or patches together with plans")
        x = self.encode(self.embed(patches), plans)
        return SwinOutput(last_hidden_state=x, pooler_output=mean_per_sample(x, plans))


def mean_per_sample(x: Tensor, plans: SwinPlans) -> Tensor:
    """Rows [T_last, C] -> the mean of each image [B, C]."""
    counts = plans.token_counts
    total = x.new_zeros(counts.shape[0], x.shape[1]).index_add(0, plans.sample_index[-1], x)
    return total / counts[:, None].to(x.dtype)


class SwinForImageClassification(SwinPreTrainedModel):
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
    ) -> SwinOutput:
        """As `SwinModel.forward`; labels int64 [B] give the mean cross-entropy as loss."""
        output = self.swin(pixel_values, patches, plans)
        output.logits = self.head(output.pooler_output)
        if labels is not None:
            output.loss = F.cross_entropy(output.logits, labels)
        return output
