"""What a Graphormer forward needs to know about a batch of graphs, from edges, PyG batches or official inputs.

Shape letters: B graphs, T nodes of all graphs, T' = T + B rows with graph tokens, E edges, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from numpy.typing import ArrayLike
from torch import Tensor

from unitrans.models.whole import kept_rows, restricted
from unitrans.nn import RowMap
from unitrans.nn.graph import categories, feature_rows
from unitrans.ops import Plan
from unitrans.ops.graphs import UNREACHABLE, GraphPairs
from unitrans.ops.movable import Movable

if TYPE_CHECKING:
    from unitrans.models.graphormer.config import GraphormerConfig


@dataclass(frozen=True)
class GraphormerPlans(Movable):
    """The groups and the pairs of a batch of graphs.

    Attributes:
        groups: one group of rows per graph, its graph token first, with a bias plane each.
        pairs: degrees, and distances and edges between the nodes.
        tokens: the map from nodes to rows, whose gaps are the graph tokens.
        extra_bias: fp32 [P], added to the bias of all heads; None: nothing.
        visible: the map from all rows to those that the blocks see; None: all of them.
        visible_groups: the groups of these rows, at their places in the bias planes.
    """

    groups: Plan
    pairs: GraphPairs
    tokens: RowMap
    extra_bias: Tensor | None = None
    visible: RowMap | None = None
    visible_groups: Plan | None = None

    def keeping(self, visible: Tensor) -> GraphormerPlans:
        """The same graphs, of which the blocks see these nodes (bool [T]) and the graph tokens only."""
        keep = torch.where(self.tokens.index < 0, True, visible[self.tokens.index.clamp(min=0)])
        return replace(self, visible=kept_rows(keep), visible_groups=restricted(self.groups, keep))

    @staticmethod
    def of(pairs: GraphPairs, extra_bias: Tensor | None = None) -> GraphormerPlans:
        """The plans of these pairs."""
        sizes = pairs.cu_nodes.diff().long() + 1
        first = sizes.cumsum(0) - sizes
        rows = torch.arange(pairs.num_nodes + pairs.num_graphs)
        graph = torch.repeat_interleave(torch.arange(pairs.num_graphs), sizes)
        index = torch.where(rows == first[graph], -1, rows - graph - 1)
        inverse = rows[: pairs.num_nodes] + 1
        inverse = inverse + torch.repeat_interleave(torch.arange(pairs.num_graphs), sizes - 1)
        return GraphormerPlans(
            groups=Plan.from_lengths(sizes, bias="ragged"),
            pairs=pairs,
            tokens=RowMap(index, inverse, gaps=True),
            extra_bias=extra_bias,
        )


pytree.register_dataclass(GraphormerPlans, serialized_type_name="unitrans.GraphormerPlans")


def plans_of_edges(
    config: GraphormerConfig,
    num_nodes: ArrayLike,
    num_edges: ArrayLike,
    edge_index: ArrayLike,
    edge_attr: ArrayLike,
) -> GraphormerPlans:
    """See `GraphormerConfig.plans`."""
    pairs = GraphPairs.from_edges(
        num_nodes,
        num_edges,
        edge_index,
        edge_attr,
        hops=config.multi_hop_max_dist,
        paths=config.paths,
        hops_are_edges=not config.multi_hop,
    )
    check_pairs(config, pairs)
    return GraphormerPlans.of(pairs)


def check_pairs(config: GraphormerConfig, pairs: GraphPairs) -> None:
    """ValueError naming the setting whose table these pairs do not fit."""
    shift = 3 if config.multi_hop else 2
    check_values("edge_attr", pairs.edges, config.feature_offset, shift, config.num_edges + 1, "num_edges")
    degree = int(pairs.degree.max()) if pairs.num_nodes else 0
    for name in ("num_in_degree", "num_out_degree"):
        if degree + 2 > getattr(config, name):
            raise ValueError(
                f"model.{name}: expected at least {degree + 2}, as a node has {degree} neighbours, "
                f"got {getattr(config, name)}"
            )
    read = pairs.distance[pairs.distance < config.spatial_pos_max]
    longest = int(read.max()) if len(read) else 0
    if longest + 2 > config.num_spatial:
        what = "nodes without a path between them" if longest == UNREACHABLE else f"a distance of {longest}"
        raise ValueError(
            f"model.num_spatial: expected at least {longest + 2} for {what}, got {config.num_spatial}"
        )


def check_values(what: str, values: Tensor, offset: int, shift: int, rows: int, setting: str) -> None:
    """ValueError where categorical features [.., F] have no row of their own in a table."""
    if not values.numel():
        return
    low, high = int(values.min()), int(values.max())
    if low < -1 or high > offset - 2:
        raise ValueError(
            f"{what}: expected categories from 0 to {offset - 2}, got {low if low < -1 else high}"
        )
    largest = int(feature_rows(values, offset, shift).max())
    if largest >= rows:
        raise ValueError(
            f"model.{setting}: expected at least {largest + setting.count('_') - 1}, as {what} has "
            f"{values.shape[-1]} features with values up to {high}, got {rows - 1}"
        )


def pack_pyg(config: GraphormerConfig, data: Any) -> tuple[Tensor, GraphormerPlans]:
    """A `torch_geometric.data.Data` or `Batch` as nodes int64 [T, F] and plans, on the device of its edges.

    x and edge_attr are categories, [T, F] or [T]; without them every node, every edge is alike.

    Raises:
        ValueError: features that are not categories, or edges between graphs.
    """
    index = data.edge_index.cpu()
    x, attr = getattr(data, "x", None), getattr(data, "edge_attr", None)
    total = int(data.num_nodes)
    x = categories("x", torch.zeros(total, 1) if x is None else x, total)
    attr = categories("edge_attr", torch.zeros(index.shape[1], 1) if attr is None else attr, index.shape[1])
    batch = getattr(data, "batch", None)
    batch = torch.zeros(total, dtype=torch.int64) if batch is None else batch.cpu()
    graphs = getattr(data, "num_graphs", None) or (int(batch[-1]) + 1 if total else 1)
    if (batch.diff() < 0).any():
        raise ValueError("batch: expected the nodes of one graph after those of another, got them mixed")
    sizes = torch.bincount(batch, minlength=graphs)
    graph = batch[index[0]]
    if not torch.equal(graph, batch[index[1]]):
        raise ValueError("edge_index: expected edges inside graphs, got one between two graphs")
    order = torch.argsort(graph, stable=True)
    local = (index - (sizes.cumsum(0) - sizes)[graph])[:, order]
    plans = config.plans(sizes, torch.bincount(graph, minlength=graphs), local, attr[order])
    config.check_nodes(x)
    device = data.edge_index.device
    return x.to(device), plans.to(device)


def pack_official(config: GraphormerConfig, batch: Mapping[str, Tensor]) -> tuple[Tensor, GraphormerPlans]:
    """The padded inputs of the published code as nodes int64 [T, F] and plans.

    Args:
        batch: x int64 [B, S, F], in_degree [B, S], spatial_pos [B, S, S], attn_bias [B, S + 1, S + 1] and, for
            multi_hop, edge_input [B, S, S, hops, F], else attn_edge_type [B, S, S, F]; 0 is padding in all of them.

    attn_bias is added twice, as the published code does; where it is -inf, two nodes do not see each other.
    """
    x, spatial, edges = batch["x"], batch["spatial_pos"], batch["edge_input"]
    if not config.multi_hop:
        edges = batch["attn_edge_type"][:, :, :, None]
    sizes = (x[:, :, 0] != 0).sum(1)
    nodes, degree, distance, hop_rows, extra = [], [], [], [], []
    for g, n in enumerate(sizes.tolist()):
        nodes.append(x[g, :n])
        degree.append(batch["in_degree"][g, :n] - 1)
        distance.append(spatial[g, :n, :n].reshape(-1) - 1)
        hop_rows.append(edges[g, :n, :n].reshape(n * n, *edges.shape[3:]))
        extra.append(2 * batch["attn_bias"][g, : n + 1, : n + 1].reshape(-1))
    rows = torch.cat(hop_rows)
    different, code = rows.flatten(0, 1).unique(dim=0, return_inverse=True)
    empty = bool(len(different)) and not different[0].any()  # rows are sorted: that of no edge comes first
    different = different[1:] if empty else different
    extra_bias = torch.cat(extra)
    shift = 3 if config.multi_hop else 2
    zero = torch.zeros(1, dtype=torch.int64)
    pairs = GraphPairs(
        cu_nodes=torch.cat([zero, sizes.cumsum(0)]).int(),
        degree=torch.cat(degree),
        distance=torch.cat(distance).to(torch.int16),
        hops=(code if empty else code + 1).view(rows.shape[:2]).int(),
        edges=different - feature_rows(torch.zeros_like(different), config.feature_offset, shift),
    )
    values = torch.cat(nodes)
    values = values - feature_rows(torch.zeros_like(values), config.feature_offset, shift=2)
    return values, GraphormerPlans.of(pairs, extra_bias if extra_bias.any() else None)
