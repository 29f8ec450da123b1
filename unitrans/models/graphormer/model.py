"""Graphormer (Ying et al. 2021, arXiv:2106.05234; version 2: Shi et al. 2022, arXiv:2203.04810) on the one Block.

One group per graph, its graph token in front; distances and the edges on paths are one bias plane per graph, shared by
all blocks. Version 1 is norm="pre", final_norm=True, embed_norm=False, head="linear", init="v1"; version 2 the default.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unitrans.models._encoder import Model
from unitrans.models.blocks import Stream, through_blocks
from unitrans.models.graphormer.config import GraphormerConfig
from unitrans.models.graphormer.plans import GraphormerPlans, pack_official, pack_pyg
from unitrans.models.images import EncoderOutput
from unitrans.nn import MASKED, Block, GraphPairBias, NodeEmbedding, gather_rows


class GraphormerPreTrainedModel(Model):
    config: GraphormerConfig
    config_class = GraphormerConfig
    base_model_prefix = "encoder"
    main_input_name = "nodes"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The published initialisation of each version."""
        v1 = self.config.init == "v1"
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02 / self.config.depth**0.5 if v1 else 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if module.padding_idx is not None and not v1:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()

    @staticmethod
    def no_weight_decay_keywords() -> tuple[str, ...]:
        """Parts of parameter names that are not decayed, beside biases and norms: none."""
        return ()

    @staticmethod
    def no_weight_decay() -> set[str]:
        """Names of parameters of the encoder that are never decayed: none."""
        return set()


class GraphormerModel(GraphormerPreTrainedModel):
    """The Graphormer encoder.

    Example:
        >>> model = GraphormerModel(GraphormerConfig(depth=2))
        >>> plans = model.config.plans([3], [2], [[0, 1], [1, 0]], [[0], [0]])
        >>> model(torch.tensor([[6], [7], [6]]), plans).pooler_output.shape
        torch.Size([1, 80])
    """

    input_names = ("nodes", "plans")

    def __init__(self, config: GraphormerConfig) -> None:
        super().__init__(config)
        dim, eps = config.embed_dim, config.layer_norm_eps
        self.node_embed = NodeEmbedding(
            config.num_atoms,
            config.num_in_degree,
            config.num_out_degree,
            dim,
            config.feature_offset,
            degrees=config.degree_encoding,
        )
        self.pair_bias = GraphPairBias(
            config.num_heads,
            config.num_edges,
            config.num_spatial,
            config.num_edge_dis,
            multi_hop=config.multi_hop,
            max_divisor=config.multi_hop_max_dist,
            max_distance=config.spatial_pos_max,
            offset=config.feature_offset,
            distances=config.spatial_encoding,
            edges=config.edge_encoding,
        )
        self.embed_norm = nn.LayerNorm(dim, eps=eps) if config.embed_norm else nn.Identity()
        embed_drop = config.drop_rate if config.embed_drop_rate is None else config.embed_drop_rate
        self.embed_drop = nn.Dropout(embed_drop)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                norm=config.norm,
                drop=config.drop_rate,
                attn_drop=config.attn_drop_rate,
                act_drop=config.act_drop_rate,
                eps=eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps) if config.final_norm else nn.Identity()
        self.pooler = Transform(dim, eps) if config.head == "transform" else nn.Identity()
        self.post_init()

    @property
    def num_layers(self) -> int:
        """Layers that `layer_id` tells apart."""
        return len(self.blocks) + 2

    def layer_id(self, name: str) -> int:
        """0 for embeddings and the bias of pairs, then the blocks, the last for the final norm and the pooler."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.num_layers - 1 if name.startswith(("norm.", "pooler.")) else 0

    def embed_nodes(
        self, nodes: Tensor, plans: GraphormerPlans, perturbation: Tensor | None = None
    ) -> Tensor:
        """nodes int64 [T, F] -> rows [T', C], graph tokens included, before any norm; perturbation [T, C] is added."""
        x = self.node_embed(nodes, plans.pairs.degree)
        x = gather_rows(x if perturbation is None else x + perturbation, plans.tokens)
        added = plans.tokens.index < 0
        return torch.where(added[:, None], self.node_embed.graph_token.weight.to(x.dtype), x)

    def embed(self, nodes: Tensor, plans: GraphormerPlans, perturbation: Tensor | None = None) -> Tensor:
        """nodes int64 [T, F], categories (-1: hidden) -> rows [T', C], graph tokens included."""
        return self.embed_drop(self.embed_norm(self.embed_nodes(nodes, plans, perturbation)))

    #: Hidden nodes lose their features; no learned row of an objective is needed.
    hides_by_vector = False

    def embed_tokens(
        self,
        inputs: Mapping[str, Any],
        plans: GraphormerPlans,
        hidden: Tensor | None,
        mask_token: Tensor | None,
    ) -> Tensor:
        """Embedded rows [T', C] of a batch, for `encode_blocks`.

        Args:
            inputs: nodes int64 [T, F].
            plans: of the batch.
            hidden: bool [T], nodes whose features are hidden; None: none. mask_token is not needed.
        """
        nodes = inputs["nodes"]
        return self.embed(nodes if hidden is None else torch.where(hidden[:, None], MASKED, nodes), plans)

    def token_rows(self, x: Tensor, plans: GraphormerPlans) -> Tensor:
        """Rows [T', C] -> those of the tokens that were given [T, C], here nodes."""
        return gather_rows(x, plans.tokens.inverted())

    def bias(self, plans: GraphormerPlans) -> Tensor:
        """The bias planes [N, P] that all blocks share."""
        bias = self.pair_bias(plans.pairs)
        return bias if plans.extra_bias is None else bias + plans.extra_bias.to(bias.dtype)

    def encode(self, x: Tensor, plans: GraphormerPlans) -> Tensor:
        """Embedded rows [T', C] through all blocks and the final norm -> [T', C]."""
        return self.leave(self.encode_blocks(x, plans)[-1])

    def encode_blocks(self, x: Tensor, plans: GraphormerPlans) -> list[Tensor]:
        """Embedded rows [T', C] -> the rows behind every block."""
        return through_blocks(self.blocks, self.enter(x, plans))

    def enter(self, x: Tensor, plans: GraphormerPlans) -> Stream:
        """Embedded rows [T', C] in front of the blocks, with the bias of pairs."""
        groups = plans.groups if plans.visible_groups is None else plans.visible_groups
        return Stream(x, groups, self.bias(plans))

    def leave(self, x: Tensor) -> Tensor:
        """Rows [T', C] behind the blocks -> rows [T', C] behind the final norm where there is one."""
        return self.norm(x)

    def features(self, nodes: Tensor, plans: GraphormerPlans, perturbation: Tensor | None = None) -> Tensor:
        """nodes int64 [T, F] -> last rows [T', C], or those that the plans keep; perturbation as in `embed_nodes`."""
        return self.encode(self.embed_kept(nodes, plans, perturbation), plans)

    def embed_kept(self, nodes: Tensor, plans: GraphormerPlans, perturbation: Tensor | None = None) -> Tensor:
        """As `embed`: the rows that the plans keep."""
        x = self.embed(nodes, plans, perturbation)
        return x if plans.visible is None else gather_rows(x, plans.visible)

    def pool(self, x: Tensor, plans: GraphormerPlans) -> Tensor:
        """Last rows [T', C] -> [B, C]: the graph tokens, through the transform of the head where there is one."""
        return self.pooler(x.index_select(0, plans.groups.cu_seqlens[:-1].long()))

    def rows_of_nodes(self, x: Tensor, plans: GraphormerPlans) -> Tensor:
        """The former name of `token_rows`; it goes with the next release."""
        warnings.warn("rows_of_nodes is now token_rows", DeprecationWarning, stacklevel=2)
        return self.token_rows(x, plans)

    def forward(self, nodes: Any, plans: GraphormerPlans | None = None) -> EncoderOutput:
        """A PyG batch, official inputs, or nodes and plans.

        Args:
            nodes: int64 [T, F] with plans; or, without, a `torch_geometric.data.Batch` or `Data` (categories in x
                and edge_attr); or the padded inputs of the published code as a mapping.
            plans: from `config.plans`.

        Returns:
            last_hidden_state [T', C], of every graph its token, then its nodes; pooler_output [B, C].
        """
        nodes, plans = self.packed(nodes, plans)
        x = self.features(nodes, plans)
        return EncoderOutput(last_hidden_state=x, pooler_output=self.pool(x, plans))

    def packed(self, nodes: Any, plans: GraphormerPlans | None = None) -> tuple[Tensor, GraphormerPlans]:
        """What forward was given, as nodes and plans."""
        if plans is not None:
            return nodes, plans
        if isinstance(nodes, Mapping):
            return pack_official(self.config, nodes)
        if hasattr(nodes, "edge_index"):
            return pack_pyg(self.config, nodes)
        raise ValueError(
            f"nodes: expected a PyG batch, official inputs, or a tensor together with plans, got "
            f"{type(nodes).__name__} without plans"
        )


class Transform(nn.Module):
    """Linear, GELU, LayerNorm: what version 2 puts in front of its last linear layer."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.norm(F.gelu(self.dense(x)))


class Graphormer(GraphormerPreTrainedModel):
    """Graphormer with its head: one prediction per graph. Usable as a plain module on a PyG batch.

    Version 2 has parameters that its published code never uses (`masked_lm_pooler`; with pre-norm also the last
    LayerNorm). They are here, frozen, so that its weights come and go complete.

    Example:
        >>> from torch_geometric.data import Data
        >>> bond = torch.tensor([[0, 1], [1, 0]])
        >>> data = Data(x=torch.tensor([[6], [8]]), edge_index=bond, edge_attr=torch.ones(2, 1))
        >>> Graphormer(GraphormerConfig(depth=2))(data).logits.shape
        torch.Size([1, 1])
    """

    def __init__(self, config: GraphormerConfig) -> None:
        super().__init__(config)
        self.encoder = GraphormerModel(config)
        transform = config.head == "transform"
        self.out = nn.Linear(config.embed_dim, config.num_outputs, bias=not transform)
        self.out_bias = nn.Parameter(torch.zeros(1)) if transform else None
        self.masked_lm_pooler = nn.Linear(config.embed_dim, config.embed_dim) if transform else None
        unused_norm = transform and config.norm == "pre" and not config.final_norm
        self.unused_norm = nn.LayerNorm(config.embed_dim) if unused_norm else None
        for unused in (self.masked_lm_pooler, self.unused_norm):
            if unused is not None:
                unused.requires_grad_(False)
        # Weights of other code bases may lack them.
        names = ("masked_lm_pooler.", "unused_norm.")
        self.unused_parameters = tuple(n for n, _ in self.named_parameters() if n.startswith(names))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.out_bias is not None:
            nn.init.zeros_(self.out_bias)

    def predict(self, x: Tensor) -> Tensor:
        """Pooled rows [B, C] -> [B, num_outputs]."""
        x = self.out(x)
        return x if self.out_bias is None else x + self.out_bias

    def forward(self, nodes: Any, plans: GraphormerPlans | None = None) -> EncoderOutput:
        """As `GraphormerModel.forward`; logits [B, num_outputs]."""
        output = self.encoder(nodes, plans)
        return EncoderOutput(logits=self.predict(output.pooler_output))
