"""Vision Transformer (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929) on the one Block.

One group per image. The options of BEiT (arXiv:2106.08254) are here too, as SimMIM's ViT encoder uses them:
relative position bias, no bias of the keys, a learned factor per channel on every branch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models.blocks import Stream, through_blocks
from unitrans.models.images import (
    EncoderOutput,
    HasImageEncoder,
    ImageEncoder,
    as_maps,
    chosen,
    classifier,
    mean_per_sample,
    resized_positions,
    with_loss,
)
from unitrans.models.vit.config import VitConfig
from unitrans.models.vit.plans import VitPlans
from unitrans.nn import (
    Activation,
    Attention,
    Block,
    PatchEmbed,
    RelativePositionBias,
    gather_rows,
    sincos_positions,
)
from unitrans.nn.block import Mlp
from unitrans.ops import Plan, attention


class VitPreTrainedModel(ImageEncoder):
    config_class = VitConfig
    base_model_prefix = "vit"
    #: SimMIM decays the token that stands for hidden patches with its ViT, not with its Swin.
    decays_mask_token = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal of .02 for linear layers, tables and tokens, convolutions as torch; see `init`."""
        beit, mae = self.config.init == "beit", self.config.init == "mae"
        cut = 0.02 if beit else 2.0
        if isinstance(module, nn.Linear):
            if mae:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02, a=-cut, b=cut)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, RelativePositionBias, Attention, Block)):
            module.reset_parameters()
        elif isinstance(module, AttentionPool):
            nn.init.trunc_normal_(module.latent, std=module.latent.shape[-1] ** -0.5)
        elif isinstance(module, PatchEmbed) and mae:
            nn.init.xavier_uniform_(module.proj.weight.flatten(1))
        elif isinstance(module, VitModel):
            for token in module.prefix:
                nn.init.trunc_normal_(token, std=0.02, a=-cut, b=cut)
            if module.pos_embed is not None:
                module.draw_positions(cut)
        if beit and isinstance(module, RelativePositionBias):
            nn.init.zeros_(module.relative_position_bias_table)

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        """Parts of parameter names that are not decayed (beside biases and norms), as in the official recipe."""
        return ("relative_position_bias_table",)

    @staticmethod
    def no_weight_decay() -> set[str]:
        """Names of parameters of the encoder that are never decayed."""
        return {"cls_token", "dist_token", "reg_token", "pos_embed", "attn_pool.latent"}


class VitModel(VitPreTrainedModel):
    """The ViT encoder.

    Example:
        >>> model = VitModel(VitConfig(depth=2))
        >>> model(torch.rand(2, 3, 224, 224)).pooler_output.shape
        torch.Size([2, 768])
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config)
        dim, eps, places = config.embed_dim, config.layer_norm_eps, config.grid[0] * config.grid[1]
        self.patch_embed = PatchEmbed(
            config.patch_size, config.in_chans, dim, norm=False, bias=config.patch_bias
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.cls_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.distillation_token else None
        registers = config.register_tokens
        self.reg_token = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        shape = (1, places + config.num_prefix * config.prefix_positions, dim)
        self.pos_embed = (
            nn.Parameter(torch.zeros(shape), requires_grad=not config.fixed_positions) if config.ape else None
        )
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.norm_pre = nn.LayerNorm(dim, eps=eps) if config.pre_norm else nn.Identity()
        self.rel_pos_bias = self._bias() if config.relative_position == "shared" else None
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                key_bias=config.key_bias,
                scale=config.qk_scale,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                drop_path=rate,
                eps=eps,
                layer_scale=config.layer_scale,
                activation=config.activation,
                position_bias=self._bias() if config.relative_position == "per_layer" else None,
            )
            for rate in rates
        )
        on_rows = config.final_norm == "rows"
        self.norm = nn.LayerNorm(dim, eps=eps) if on_rows else nn.Identity()
        self.fc_norm = nn.Identity() if on_rows else nn.LayerNorm(dim, eps=eps)
        gathers = config.pooling == "attention"
        self.attn_pool = (
            AttentionPool(dim, config.num_heads, config.mlp_ratio, config.activation, eps)
            if gathers
            else None
        )
        self.remember_plans()
        self.post_init()
        if config.init == "beit":  # here, as weights that are loaded must not be divided
            with torch.no_grad():
                for number, block in enumerate(self.blocks, start=1):
                    assert isinstance(block, Block)
                    for layer in (block.attn.proj, block.mlp.fc2):
                        layer.weight.div_(math.sqrt(2 * number))

    def _bias(self) -> RelativePositionBias:
        config = self.config
        return RelativePositionBias(config.grid, config.num_heads, cls_token=config.cls_token)

    @property
    def prefix(self) -> list[Tensor]:
        """The tokens [1, n, C] in front of the patches, in their order."""
        return [token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None]

    def draw_positions(self, cut: float) -> None:
        """Fresh absolute positions, cut at so much; a class token has zeros where they are fixed."""
        assert self.pos_embed is not None
        if not self.config.fixed_positions:
            nn.init.trunc_normal_(self.pos_embed, std=0.02, a=-cut, b=cut)
            return
        h, w = self.config.grid
        place = torch.cartesian_prod(torch.arange(h, device="cpu"), torch.arange(w, device="cpu"))
        table = sincos_positions(place.view(-1, 2), self.config.embed_dim)
        self.pos_embed.copy_(F.pad(table, (0, 0, int(self.config.cls_token), 0)))

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart."""
        return int(self.config.depth) + 2

    def layer_id(self, name: str) -> int:
        """The layer of a parameter as in BEiT's and SimMIM's fine-tuning: embeddings 0, block i is i + 1, the rest the
        last."""
        embeddings = ("cls_token", "dist_token", "reg_token", "pos_embed")
        if name in embeddings or name.startswith(("patch_embed.", "norm_pre.")):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else self.num_layers - 1

    def embed(self, patches: Tensor) -> Tensor:
        """patches [T, in_chans*p*p] as `patchify` makes them -> rows [T, C]."""
        return self.patch_embed(patches)

    def encode(self, x: Tensor, plans: VitPlans) -> Tensor:
        """Embedded rows [T, C] through all blocks and the final norm -> [T', C], class tokens included."""
        return self.leave(self.encode_blocks(x, plans)[-1])

    def encode_blocks(self, x: Tensor, plans: VitPlans) -> list[Tensor]:
        """Embedded rows [T, C] -> the rows [T', C] behind every block, class tokens included."""
        return through_blocks(self.blocks, self.enter(x, plans))

    def enter(self, x: Tensor, plans: VitPlans) -> Stream:
        """Embedded rows [T, C] -> rows [T', C] in front of the blocks: other tokens and positions added."""
        front = self.config.num_prefix
        if front:
            assert plans.tokens is not None, "plans of a configuration with cls_token have a place for it"
            added = plans.tokens.index < 0
            tokens = torch.cat(self.prefix, 1)[0].to(x.dtype)
            tokens = tokens if front == 1 else F.embedding(plans.place.clamp(max=front - 1), tokens)
            x = torch.where(added[:, None], tokens, gather_rows(x, plans.tokens))
        if self.pos_embed is not None:
            theirs = front if self.config.prefix_positions else 0
            table = resized_positions(self.pos_embed[0], self.config, plans, theirs)
            x = x + F.embedding(plans.place, F.pad(table, (0, 0, front - theirs, 0)))
        x = self.norm_pre(self.pos_drop(x))
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias()
        return Stream(x, plans.groups, bias, plans.sample_index, plans.token_counts.shape[0])

    def leave(self, x: Tensor) -> Tensor:
        """Rows [T', C] behind the blocks -> rows [T', C] behind the norm of rows."""
        return self.norm(x)

    def token_rows(self, x: Tensor, plans: VitPlans) -> Tensor:
        """Rows [T', C] -> those of the tokens that were given [T, C], here patches."""
        return self.patches_of(x, plans)

    @staticmethod
    def patches_of(x: Tensor, plans: VitPlans) -> Tensor:
        """Rows [T', C] -> those of patches [T, C]."""
        return x if plans.tokens is None else gather_rows(x, plans.tokens.inverted())

    def forward_features(
        self, pixel_values: Tensor, out_indices: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Feature maps for dense tasks.

        Args:
            pixel_values: [B, in_chans, H, W].
            out_indices: blocks, negative ones from the end; None: all.

        Returns:
            [B, C, h, w] of each wanted block: the rows of patches behind it, not normalised.
        """
        patches, plans = self.pack(pixel_values)
        grid = self.map_grid(pixel_values)
        rows = self.encode_blocks(self.embed(patches), plans)
        wanted = chosen(out_indices, self.config.depth, "blocks")
        return [as_maps(self.patches_of(rows[block], plans), grid) for block in wanted]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        plans: VitPlans | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> EncoderOutput:
        """Images, or the packed stream.

        Args:
            pixel_values: [B, in_chans, H, W], of any size; what does not fill a patch at the right and bottom is
                left out.
            patches, plans: instead of pixel_values, rows [T, in_chans*p*p] and `config.plans(grids)`.
            interpolate_pos_encoding: absolute positions are resized for images of another size than image_size; False:
                such images are an error.

        Returns:
            last_hidden_state [T', C], of every image its class token, then its patches; pooler_output [B, C].
        """
        patches, plans = self.packed(pixel_values, patches, plans, interpolate_pos_encoding)
        x = self.features(patches, plans)
        return EncoderOutput(last_hidden_state=x, pooler_output=self.pool(x, plans))

    def features(self, patches: Tensor, plans: VitPlans) -> Tensor:
        """patches [T, in_chans*p*p] -> rows [T', C] behind the norm of rows, class tokens included."""
        return self.encode(self.embed(self.visible(patches, plans)), plans)

    def pool(self, x: Tensor, plans: VitPlans) -> Tensor:
        """Rows [T', C] -> [B, C] by `config.pooling`, behind the norm of pooled rows if there is one; of a model with a
        distillation token the mean of the two."""
        if self.attn_pool is not None:
            return self.fc_norm(self.attn_pool(x, plans.groups, plans.token_counts.shape[0]))
        if self.config.pooling == "cls":
            first, *more = self.class_rows(x, plans)
            return self.fc_norm((first + more[0]) / 2 if more else first)
        index = plans.sample_index
        index = index if plans.tokens is None else index[plans.tokens.inverse]
        return self.fc_norm(mean_per_sample(self.patches_of(x, plans), index, plans.token_counts))

    def class_rows(self, x: Tensor, plans: VitPlans) -> list[Tensor]:
        """Rows [T', C] -> [B, C] of the class token and, where there is one, of the distillation token."""
        at = plans.groups.cu_seqlens[:-1].long()
        return [x.index_select(0, at + place) for place in range(1 + self.config.distillation_token)]


class AttentionPool(nn.Module):
    """One row per image by a learned query over its rows, then an MLP (SigLIP: Zhai et al. 2023, arXiv:2303.15343)."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, activation: Activation, eps: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self._query = Plan.from_lengths([1])  # here, so that tracing never meets the planner
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio + 1e-6), activation=activation)

    def forward(self, x: Tensor, groups: Plan, num_samples: int) -> Tensor:
        """Rows [T', C] of num_samples groups -> [B, C]."""
        queries = self._query.to(x.device).repeat(num_samples)
        q = self.q(self.latent[0]).expand(num_samples, -1).unflatten(1, (self.num_heads, -1))
        k, v = self.kv(x).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        out = attention(q, k, v, Plan.cross(queries, groups))
        assert isinstance(out, Tensor)
        x = self.proj(out.flatten(1))
        return x + self.mlp(self.norm(x))


class VitForImageClassification(HasImageEncoder, VitPreTrainedModel):
    """ViT with a linear classifier on the pooled rows; with a distillation token one on each of the two tokens, and the
    mean of their logits."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__(config)
        self.vit = VitModel(config)
        self.head = classifier(config.num_features, config.num_labels)
        distilled = config.distillation_token
        self.head_dist = classifier(config.num_features, config.num_labels) if distilled else None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        patches: Tensor | None = None,
        plans: VitPlans | None = None,
        interpolate_pos_encoding: bool = True,
    ) -> EncoderOutput:
        """As `VitModel.forward`; labels int64 [B] give the mean cross-entropy as loss."""
        patches, plans = self.vit.packed(pixel_values, patches, plans, interpolate_pos_encoding)
        x = self.vit.features(patches, plans)
        if self.head_dist is None:
            return with_loss(self.head(self.vit.pool(x, plans)), labels)
        first, second = (self.vit.fc_norm(rows) for rows in self.vit.class_rows(x, plans))
        return with_loss((self.head(first) + self.head_dist(second)) / 2, labels)
