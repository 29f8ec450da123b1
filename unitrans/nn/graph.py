"""Graphormer's embedding of nodes and its bias of pairs of nodes (Ying et al. 2021, arXiv:2106.05234, section 3.1).

Features are categories: value v of feature f is row v + 2 + offset * f of a table (v + 3 for edges on paths), as in
the published code, so that its weights fit. The value MASKED (-1) stands for a hidden one: its row is never that of a
value. Shape letters as in `unitrans.ops.graphs`, and N heads, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitrans.ops.graphs import GraphPairs
from unitrans.ops.pair_bias import pair_bias

#: The value of a feature that is hidden.
MASKED = -1


def feature_rows(values: Tensor, offset: int, shift: int) -> Tensor:
    """Values [..., F] of categorical features -> rows of a table, int64 [..., F]."""
    steps = torch.arange(values.shape[-1], device=values.device) * offset
    return values + (steps + shift)


class NodeEmbedding(nn.Module):
    """Sum of the embeddings of a node's features and of its degree; one learned vector for graph tokens.

    Args:
        num_atoms, num_in_degree, num_out_degree: rows of the tables (one more for num_atoms).
        dim: C.
        offset: rows between features.
        degrees: whether the degree counts.
    """

    def __init__(
        self,
        num_atoms: int,
        num_in_degree: int,
        num_out_degree: int,
        dim: int,
        offset: int,
        *,
        degrees: bool = True,
    ) -> None:
        super().__init__()
        self.offset = offset
        self.atom_encoder = nn.Embedding(num_atoms + 1, dim, padding_idx=0)
        self.in_degree_encoder = nn.Embedding(num_in_degree, dim, padding_idx=0) if degrees else None
        self.out_degree_encoder = nn.Embedding(num_out_degree, dim, padding_idx=0) if degrees else None
        self.graph_token = nn.Embedding(1, dim)

    def forward(self, nodes: Tensor, degree: Tensor) -> Tensor:
        """nodes int64 [T, F], degree int64 [T] -> [T, C].

        The published code reads the degree along the edges for both tables, whatever the direction.
        """
        rows = feature_rows(nodes, self.offset, shift=2)
        x = F.embedding_bag(rows, self.atom_encoder.weight, mode="sum", padding_idx=0)
        if self.in_degree_encoder is None or self.out_degree_encoder is None:
            return x
        return x + self.in_degree_encoder(degree + 1) + self.out_degree_encoder(degree + 1)


class GraphPairBias(nn.Module):
    """Bias of pairs of nodes: distance, the edges on the path between them, and the graph token.

    Args:
        num_heads: N.
        num_edges, num_spatial, num_edge_dis: rows of the tables (one more for num_edges; N * N for each of
            num_edge_dis).
        multi_hop: the edges on the path count, mixed by one matrix per hop; False: only an edge between the two nodes.
        max_divisor: the sum over the hops is divided by the distance, at most this.
        max_distance: pairs this far apart or farther do not see each other.
        offset: rows between features.
        distances, edges: whether the distance, and whether the edges on the path, count.
    """

    def __init__(
        self,
        num_heads: int,
        num_edges: int,
        num_spatial: int,
        num_edge_dis: int,
        *,
        multi_hop: bool,
        max_divisor: int,
        max_distance: int,
        offset: int,
        distances: bool = True,
        edges: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.offset, self.num_spatial = num_heads, offset, num_spatial
        self.max_divisor, self.max_distance = max_divisor if multi_hop else 1, max_distance
        self.edge_encoder = nn.Embedding(num_edges + 1, num_heads, padding_idx=0) if edges else None
        # [num_edge_dis * N * N, 1] as published: a matrix per hop.
        self.edge_dis_encoder = nn.Embedding(num_edge_dis * num_heads**2, 1) if multi_hop and edges else None
        self.spatial_pos_encoder = nn.Embedding(num_spatial, num_heads, padding_idx=0) if distances else None
        self.graph_token_virtual_distance = nn.Embedding(1, num_heads)

    def forward(self, pairs: GraphPairs) -> Tensor:
        """The planes of a batch, graph tokens first: fp32 (fp64 for fp64 tables) [N, P]."""
        with torch.autocast(pairs.distance.device.type, enabled=False):
            token = _wide(self.graph_token_virtual_distance.weight[0])
            spatial = self.spatial_pos_encoder
            return pair_bias(
                token.new_zeros(self.num_spatial, self.num_heads)
                if spatial is None
                else _wide(spatial.weight),
                self.hop_table(pairs.edges, pairs.hops.shape[1]),
                token,
                pairs,
                max_divisor=self.max_divisor,
                max_distance=self.max_distance,
            )

    def hop_table(self, edges: Tensor, hops: int) -> Tensor:
        """What an edge adds at each hop, before the division: [K, U + 1, N]. edges: int64 [U, F].

        The mean over features, not the sum, and row 0 of the table for no edge, as published: a learned constant
        there is legal (weights of Graphormer v1 have one) but gets no gradient. Zeros where edges do not count.
        """
        if self.edge_encoder is None:
            like = _wide(self.graph_token_virtual_distance.weight)
            return like.new_zeros(hops, len(edges) + 1, self.num_heads)
        multi_hop = self.edge_dis_encoder is not None
        rows = F.pad(feature_rows(edges, self.offset, shift=3 if multi_hop else 2), (0, 0, 1, 0))
        values = F.embedding(rows, _wide(self.edge_encoder.weight), padding_idx=0).mean(dim=1)
        if self.edge_dis_encoder is None:
            return values[None]
        mix = _wide(self.edge_dis_encoder.weight).view(-1, self.num_heads, self.num_heads)
        return values @ mix[:hops]


def _wide(table: Tensor) -> Tensor:
    return table if table.dtype in (torch.float32, torch.float64) else table.float()


def categories(name: str, values: Tensor, count: int) -> Tensor:
    """Features of nodes or edges as int64 [count, F]; ValueError where they are not whole numbers."""
    values = values.cpu()
    values = values[:, None] if values.dim() == 1 else values
    whole = values.long()
    if values.dim() != 2 or len(values) != count or not torch.equal(whole.to(values.dtype), values):
        raise ValueError(
            f"{name}: expected categories, whole numbers [{count}, features], got {values.dtype} "
            f"{list(values.shape)}; continuous features have to be made categories first"
        )
    return whole
