"""Graphormer as it was published, written down in plain PyTorch: padded batches, dense bias, no kernel of ours.

The other side of `benchmarks/graph.py` and of tests: parameters carry the names of version 2, so that the weights of
`unitrans.models.Graphormer` load by `export_weights(model, "v2")`.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNREACHABLE = 510


def preprocess(
    edge_index: np.ndarray, edge_attr: np.ndarray, nodes: np.ndarray, hops: int
) -> dict[str, np.ndarray]:
    """One graph: ids of nodes, row degrees, distances, ids of the edges on paths [n, n, hops, F]. Vectorised NumPy
    over pairs, a Python loop over the middle nodes and over the pairs of nodes."""
    n = len(nodes)
    linked = np.zeros((n, n), dtype=bool)
    linked[edge_index[0], edge_index[1]] = True
    ids = np.zeros((n, n, edge_attr.shape[1]), dtype=np.int64)
    ids[edge_index[0], edge_index[1]] = edge_attr + 2 + 512 * np.arange(edge_attr.shape[1])
    distance = np.where(linked, 1, UNREACHABLE)
    np.fill_diagonal(distance, 0)
    middle = np.full((n, n), -1)
    for k in range(n):
        by_k = distance[:, k, None] + distance[None, k]
        better = by_k < distance
        distance[better], middle[better] = by_k[better], k
    paths = np.full((n, n, hops, edge_attr.shape[1]), -1, dtype=np.int64)

    def walk(i: int, j: int) -> list[int]:
        k = middle[i, j]
        return [] if k < 0 else [*walk(i, k), k, *walk(k, j)]

    for i in range(n):
        for j in range(n):
            if i != j and distance[i, j] < UNREACHABLE:
                stops = [i, *walk(i, j), j]
                for h in range(min(hops, len(stops) - 1)):
                    paths[i, j, h] = ids[stops[h], stops[h + 1]]
    return {
        "x": nodes + 1 + 512 * np.arange(nodes.shape[1]),
        "degree": linked.sum(1),
        "distance": distance,
        "edges": ids,
        "paths": paths,
    }


def collate(items: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """The padded batch under the published names; 0 is padding."""
    size = max(len(item["x"]) for item in items)

    def pad(key: str, plus: int, axes: int) -> Tensor:
        first = items[0][key]
        out = torch.zeros(len(items), *[size] * axes, *first.shape[axes:], dtype=torch.int64)
        for row, item in enumerate(items):
            value = torch.from_numpy(item[key] + plus)
            out[(row, *(slice(n) for n in value.shape[:axes]))] = value
        return out

    degree = pad("degree", 1, 1)
    bias = torch.zeros(len(items), size + 1, size + 1)
    for row, item in enumerate(items):
        bias[row, : len(item["x"]) + 1, len(item["x"]) + 1 :] = -torch.inf
        bias[row, len(item["x"]) + 1 :, len(item["x"]) + 1 :] = -torch.inf
    return {
        "x": pad("x", 1, 1),
        "in_degree": degree,
        "out_degree": degree,
        "spatial_pos": pad("distance", 1, 2),
        "edge_input": pad("paths", 1, 2),
        "attn_edge_type": pad("edges", 0, 2),
        "attn_bias": bias,
    }


class PaddedBias(nn.Module):
    def __init__(self, c) -> None:
        super().__init__()
        self.heads, self.hops, self.multi_hop = c.num_heads, c.multi_hop_max_dist, c.multi_hop
        self.edge_encoder = nn.Embedding(c.num_edges + 1, c.num_heads, padding_idx=0)
        if c.multi_hop:
            self.edge_dis_encoder = nn.Embedding(c.num_edge_dis * c.num_heads**2, 1)
        self.spatial_pos_encoder = nn.Embedding(c.num_spatial, c.num_heads, padding_idx=0)
        self.graph_token_virtual_distance = nn.Embedding(1, c.num_heads)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, N, S + 1, S + 1]."""
        given, position = batch["attn_bias"], batch["spatial_pos"]
        token = self.graph_token_virtual_distance.weight.view(1, self.heads, 1)
        bias = given[:, None].repeat(1, self.heads, 1, 1)
        bias[:, :, 1:, 1:] = bias[:, :, 1:, 1:] + self.spatial_pos_encoder(position).permute(0, 3, 1, 2)
        bias[:, :, 1:, 0] = bias[:, :, 1:, 0] + token
        bias[:, :, 0, :] = bias[:, :, 0, :] + token
        if self.multi_hop:
            steps = self.edge_encoder(batch["edge_input"][:, :, :, : self.hops]).mean(-2)
            b, s, _, k, h = steps.shape
            mix = self.edge_dis_encoder.weight.view(-1, h, h)[:k]
            mixed = torch.bmm(steps.permute(3, 0, 1, 2, 4).reshape(k, -1, h), mix)
            total = mixed.view(k, b, s, s, h).permute(1, 2, 3, 0, 4).sum(-2)
            edges = total / (position - 1).clamp(1, self.hops)[..., None].to(total.dtype)
        else:
            edges = self.edge_encoder(batch["attn_edge_type"]).mean(-2)
        bias[:, :, 1:, 1:] = bias[:, :, 1:, 1:] + edges.permute(0, 3, 1, 2)
        return bias + given[:, None]


class PaddedAttention(nn.Module):
    def __init__(self, c) -> None:
        super().__init__()
        self.heads, self.drop = c.num_heads, nn.Dropout(c.attn_drop_rate)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self, name, nn.Linear(c.embed_dim, c.embed_dim))

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
        b, s, c = x.shape
        q, k, v = (
            project(x).view(b, s, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(2, 3) + bias
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
        out = self.drop(scores.softmax(-1)) @ v
        return self.out_proj(out.transpose(1, 2).reshape(b, s, c))


class PaddedLayer(nn.Module):
    def __init__(self, c) -> None:
        super().__init__()
        dim, hidden = c.embed_dim, round(c.embed_dim * c.mlp_ratio)
        self.pre = c.norm == "pre"
        self.self_attn = PaddedAttention(c)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop, self.act_drop = nn.Dropout(c.drop_rate), nn.Dropout(c.act_drop_rate)

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(x) if self.pre else x
        x = x + self.drop(self.self_attn(y, bias, padding))
        x = x if self.pre else self.self_attn_layer_norm(x)
        y = self.final_layer_norm(x) if self.pre else x
        x = x + self.drop(self.fc2(self.act_drop(F.gelu(self.fc1(y)))))
        return x if self.pre else self.final_layer_norm(x)


class PaddedGraphormer(nn.Module):
    """Version 2 for the configuration of ours.

    Args:
        c: a GraphormerConfig with head "transform", embed_norm and no final_norm.
    """

    def __init__(self, c) -> None:
        super().__init__()
        dim = c.embed_dim
        self.encoder = encoder = nn.Module()
        encoder.graph_encoder = graph = nn.Module()
        graph.graph_node_feature = nodes = nn.Module()
        nodes.atom_encoder = nn.Embedding(c.num_atoms + 1, dim, padding_idx=0)
        nodes.in_degree_encoder = nn.Embedding(c.num_in_degree, dim, padding_idx=0)
        nodes.out_degree_encoder = nn.Embedding(c.num_out_degree, dim, padding_idx=0)
        nodes.graph_token = nn.Embedding(1, dim)
        graph.graph_attn_bias = PaddedBias(c)
        graph.emb_layer_norm, graph.drop = nn.LayerNorm(dim), nn.Dropout(c.drop_rate)
        graph.layers = nn.ModuleList(PaddedLayer(c) for _ in range(c.depth))
        if c.norm == "pre":
            graph.final_layer_norm = nn.LayerNorm(dim)
        encoder.masked_lm_pooler = nn.Linear(dim, dim)
        encoder.lm_head_transform_weight, encoder.layer_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        encoder.embed_out = nn.Linear(dim, c.num_outputs, bias=False)
        encoder.lm_output_learned_bias = nn.Parameter(torch.zeros(1))

    def rows(self, batch: dict[str, Tensor]) -> Tensor:
        """Last rows [B, S + 1, C]."""
        graph = self.encoder.graph_encoder
        nodes = graph.graph_node_feature
        x = nodes.atom_encoder(batch["x"]).sum(-2)
        x = x + nodes.in_degree_encoder(batch["in_degree"]) + nodes.out_degree_encoder(batch["in_degree"])
        x = torch.cat([nodes.graph_token.weight[None].expand(len(x), -1, -1), x], dim=1)
        padding = F.pad(batch["x"][:, :, 0] == 0, (1, 0))
        bias = graph.graph_attn_bias(batch)
        x = graph.drop(graph.emb_layer_norm(x))
        for layer in graph.layers:
            x = layer(x, bias, padding)
        return x

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, num_outputs]."""
        token = self.rows(batch)[:, 0]
        head = self.encoder
        token = head.layer_norm(F.gelu(head.lm_head_transform_weight(token)))
        return head.embed_out(token) + head.lm_output_learned_bias
