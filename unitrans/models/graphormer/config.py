"""Configuration of Graphormer (Ying et al. 2021, arXiv:2106.05234; version 2: Shi et al. 2022, arXiv:2203.04810)."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedConfig

from unitrans.models.graphormer.plans import GraphormerPlans, check_pairs, check_values, plans_of_edges
from unitrans.models.graphormer.sizes import SIZES
from unitrans.models.images import check_sizes
from unitrans.ops.graphs import GraphPairs, PathRule

NormPlace = Literal["post", "pre"]
Head = Literal["transform", "linear"]
Init = Literal["v1", "v2"]


class GraphormerConfig(PreTrainedConfig):
    """Configuration of a Graphormer encoder; the defaults are the published "slim".

    Attributes:
        num_atoms, num_edges: rows of the tables of node and edge features (and one more, for padding).
        feature_offset: rows between features: value v of feature f is row v + 2 + feature_offset * f.
        num_in_degree, num_out_degree, num_spatial, num_edge_dis: rows of the tables of degrees, distances and (times
            heads squared) hops.
        degree_encoding, spatial_encoding, edge_encoding: whether the degree of a node, the distance of two nodes and
            the edges between them count; the published model has all three.
        multi_hop: the edges on the path between two nodes count; False: only an edge between them.
        multi_hop_max_dist: how many edges of a path count.
        spatial_pos_max: nodes this far apart or farther do not see each other; nodes without a path are 510 apart.
        paths: which of several shortest paths counts: official, or bfs (for large graphs).
        embed_dim, depth, num_heads: channels, blocks, heads.
        mlp_ratio: hidden width of the MLPs over the channels.
        norm: where the LayerNorms of the blocks stand: post (version 2) or pre (version 1).
        embed_norm: a LayerNorm on the embedded rows (version 2).
        final_norm: a LayerNorm on the last rows (version 1).
        head: what stands between the graph token and a last linear layer: transform (linear, GELU, LayerNorm:
            version 2) or linear (nothing: version 1).
        drop_rate, attn_drop_rate, act_drop_rate: dropout of embedded rows and projections, of attention weights, and
            behind the activation of the MLPs.
        embed_drop_rate: dropout of embedded rows where it is not drop_rate.
        init: v2: normal of .02, rows of padding zero; v1: linear layers of .02 / sqrt(depth), no row zero.
        num_outputs: values that `Graphormer` predicts for a graph.
        layer_norm_eps: of all LayerNorms.
    """

    model_type = "unitrans-graphormer"
    #: The features of its models take a perturbation (see `unitrans.objectives.flag`).
    perturbable = True

    num_atoms: int = 512 * 9
    num_edges: int = 512 * 3
    feature_offset: int = 512
    num_in_degree: int = 512
    num_out_degree: int = 512
    num_spatial: int = 512
    num_edge_dis: int = 128
    degree_encoding: bool = True
    spatial_encoding: bool = True
    edge_encoding: bool = True
    multi_hop: bool = True
    multi_hop_max_dist: int = 5
    spatial_pos_max: int = 1024
    paths: PathRule = "official"
    embed_dim: int = 80
    depth: int = 12
    num_heads: int = 8
    mlp_ratio: float = 1.0
    norm: NormPlace = "post"
    embed_norm: bool = True
    final_norm: bool = False
    head: Head = "transform"
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.1
    act_drop_rate: float = 0.1
    embed_drop_rate: float | None = None
    init: Init = "v2"
    num_outputs: int = 1
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        check_sizes(
            self,
            *"num_atoms num_edges feature_offset num_in_degree num_out_degree num_spatial num_edge_dis".split(),
            *"multi_hop_max_dist spatial_pos_max embed_dim depth num_heads mlp_ratio num_outputs".split(),
        )
        for name in ("drop_rate", "attn_drop_rate", "act_drop_rate", "embed_drop_rate"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(self, name)}")
        for name, kind in (("norm", NormPlace), ("head", Head), ("init", Init), ("paths", PathRule)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads: expected a divisor of embed_dim {self.embed_dim}, got {self.num_heads}"
            )
        if self.multi_hop and self.multi_hop_max_dist > self.num_edge_dis:
            raise ValueError(
                f"multi_hop_max_dist: expected at most num_edge_dis {self.num_edge_dis}, "
                f"got {self.multi_hop_max_dist}"
            )

    @classmethod
    def named(cls, size: str, **fields: Any) -> "GraphormerConfig":
        """A published size, "slim", "base" or "large", with other fields as given."""
        sizes = {name.removeprefix("graphormer-"): values for name, values in SIZES.items()}
        if size not in sizes:
            raise ValueError(f"size: expected one of {', '.join(sizes)}, got {size!r}")
        return cls(**(sizes[size] | fields))

    @property
    def num_features(self) -> int:
        """Channels of the last rows."""
        return self.embed_dim

    @property
    def layout_family(self) -> str:
        """Whose names the weights have in other code bases. ValueError for a model that none of them has."""
        for name in ("degree_encoding", "spatial_encoding", "edge_encoding"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name}: the published Graphormer has it, so its weights have no names without"
                )
        return "graphormer"

    def plans(
        self, num_nodes: ArrayLike, num_edges: ArrayLike, edge_index: ArrayLike, edge_attr: ArrayLike
    ) -> GraphormerPlans:
        """The plans of a batch of graphs.

        Args:
            num_nodes, num_edges: integers [B], of each graph.
            edge_index: integers [2, E], node numbers inside the graph, one graph after the other; both directions of
                an undirected edge.
            edge_attr: int64 [E, F], categories; -1 is a hidden edge.

        Raises:
            ValueError: lists that do not fit together, or that the tables do not cover.
        """
        return plans_of_edges(self, num_nodes, num_edges, edge_index, edge_attr)

    def check_graph(self, nodes: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray) -> None:
        """Raises ValueError, as `plans` does, if the tables do not cover this graph; arguments as there."""
        self.check_nodes(torch.from_numpy(nodes))
        sizes = [len(nodes)], [edge_index.shape[1]]
        hops, whole = self.multi_hop_max_dist, not self.multi_hop
        pairs = GraphPairs.from_edges(
            *sizes, edge_index, edge_attr, hops=hops, paths=self.paths, hops_are_edges=whole
        )
        check_pairs(self, pairs)

    def check_nodes(self, nodes: Tensor) -> None:
        """Raises ValueError if these categories [T, F] have no rows in the table of node features."""
        check_values("nodes", nodes, self.feature_offset, 2, self.num_atoms + 1, "num_atoms")
