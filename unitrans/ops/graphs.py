"""What the bias of a batch of graphs is built from: distances, paths and degrees, packed and ragged.

Made once per batch on the host (C++ behind `unitrans._graph`). Shape letters: B graphs, T nodes of all graphs,
E edges, F features of an edge, K hops, R pairs of nodes (the sum of n * n), U different edges.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from unitrans.ops.movable import Movable
from unitrans.ops.planners import graph_planners

#: Which of several shortest paths counts: "official" as in the loop of the published Graphormer (O(n^3)), "bfs" the
#: one that a breadth-first search finds first (O(n * edges)). Distances are the same.
PathRule = Literal["official", "bfs"]

#: A distance of this or more counts as no path at all, and so does an absent path.
UNREACHABLE: int = graph_planners.UNREACHABLE


@dataclass(frozen=True)
class GraphPairs(Movable):
    """The nodes and the pairs of nodes of a batch of graphs.

    The R pairs (i, j) are row-major inside a graph, one graph after the other.

    Attributes:
        cu_nodes: int32 [B + 1], starts at 0; graph g has the nodes cu_nodes[g] : cu_nodes[g + 1].
        degree: int64 [T], how many different nodes the edges of a node lead to.
        distance: int16 [R], edges of a shortest path from i to j, UNREACHABLE (510) without one.
        hops: int32 [R, K], codes of the first K edges of that path, 0 behind its end.
        edges: int64 [U, F], what the codes stand for: code c is an edge with the features edges[c - 1].

    Raises:
        ValueError: lists that do not fit together; the message names the list.
    """

    cu_nodes: Tensor
    degree: Tensor
    distance: Tensor
    hops: Tensor
    edges: Tensor

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.cu_nodes.device.type == "cpu" and not isinstance(self.cu_nodes, FakeTensor):
            _check_values(self)

    @classmethod
    def from_edges(
        cls,
        num_nodes: ArrayLike,
        num_edges: ArrayLike,
        edge_index: ArrayLike,
        edge_attr: ArrayLike,
        *,
        hops: int = 5,
        paths: PathRule = "official",
        hops_are_edges: bool = False,
    ) -> "GraphPairs":
        """The pairs of a batch of directed graphs; an undirected edge is listed in both directions.

        Args:
            num_nodes, num_edges: integers [B], of each graph.
            edge_index: integers [2, E], sources and targets as node numbers inside their graph, one graph after
                the other. Of parallel edges the last one counts.
            edge_attr: int64 [E, F].
            hops: K.
            paths: which of several shortest paths counts.
            hops_are_edges: K is 1 and the code is that of the edge (i, j) itself, 0 where there is none.

        Raises:
            ValueError: lists that do not fit together; the message names the graph and the edge.
        """
        if paths not in get_args(PathRule):
            raise ValueError(f"paths: expected one of {', '.join(get_args(PathRule))}, got {paths!r}")
        index, attr = np.asarray(edge_index), np.ascontiguousarray(edge_attr, dtype=np.int64)
        if index.ndim != 2 or index.shape[0] != 2:
            raise ValueError(f"edge_index: expected [2, edges], got shape {index.shape}")
        if attr.ndim != 2 or attr.shape[0] != index.shape[1]:
            raise ValueError(
                f"edge_attr: expected [{index.shape[1]} edges, features], got shape {attr.shape}"
            )
        code, first = graph_planners.unique_rows(attr)
        cu_nodes = _cumulative(num_nodes)
        degree, distance, codes = graph_planners.pair_features(
            cu_nodes,
            _cumulative(num_edges),
            np.ascontiguousarray(index[0], dtype=np.int32),
            np.ascontiguousarray(index[1], dtype=np.int32),
            code,
            hops,
            paths,
            hops_are_edges,
        )
        return cls(
            cu_nodes=torch.from_numpy(cu_nodes),
            degree=torch.from_numpy(degree).long(),
            distance=torch.from_numpy(distance),
            hops=torch.from_numpy(codes),
            edges=torch.from_numpy(attr[first]),
        )

    @property
    def num_graphs(self) -> int:
        return self.cu_nodes.shape[0] - 1

    @property
    def num_nodes(self) -> int:
        """Nodes of all graphs."""
        return self.degree.shape[0]


def _check_fields(pairs: GraphPairs) -> None:
    lists: dict[str, tuple[torch.dtype, int]] = {
        "cu_nodes": (torch.int32, 1),
        "degree": (torch.int64, 1),
        "distance": (torch.int16, 1),
        "hops": (torch.int32, 2),
        "edges": (torch.int64, 2),
    }
    for name, (dtype, dims) in lists.items():
        value = getattr(pairs, name)
        if not isinstance(value, Tensor) or value.dtype != dtype or value.dim() != dims:
            raise ValueError(f"{name}: expected {dtype} with {dims} dimensions, got {_describe(value)}")
        if value.device != pairs.cu_nodes.device:
            raise ValueError(f"{name}: expected on {pairs.cu_nodes.device} like cu_nodes, got {value.device}")
    if pairs.cu_nodes.shape[0] < 1:
        raise ValueError("cu_nodes: expected at least one entry (a 0), got none")
    if pairs.hops.shape[0] != pairs.distance.shape[0]:
        raise ValueError(
            f"hops: expected {pairs.distance.shape[0]} pairs as distance, got {pairs.hops.shape[0]}"
        )


def _check_values(pairs: GraphPairs) -> None:
    sizes = pairs.cu_nodes.diff().long()
    first, last = int(pairs.cu_nodes[0]), int(pairs.cu_nodes[-1])
    if first != 0 or last != pairs.num_nodes or bool((sizes < 0).any()):
        raise ValueError(
            f"cu_nodes: expected to start at 0, never to fall and to end at the {pairs.num_nodes} nodes of degree, "
            f"got {first} to {last}{' with falls' if bool((sizes < 0).any()) else ''}"
        )
    if int((sizes * sizes).sum()) != pairs.distance.shape[0]:
        raise ValueError(
            f"distance: expected {int((sizes * sizes).sum())} pairs for these graphs, got {pairs.distance.shape[0]}"
        )
    for name, value, limit in (
        ("degree", pairs.degree, None),
        ("distance", pairs.distance, None),
        ("hops", pairs.hops, pairs.edges.shape[0]),
    ):
        if not value.numel():
            continue
        low, high = (int(x) for x in value.aminmax())
        if low < 0 or (limit is not None and high > limit):
            expected = "at least 0" if limit is None else f"codes of the {limit} edges (0: none)"
            raise ValueError(f"{name}: expected {expected}, got {low} to {high}")


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


_FIELDS = tuple(field.name for field in dataclasses.fields(GraphPairs))


def _unflatten(leaves: Iterable[Any], context: tuple[()]) -> GraphPairs:
    """Unchecked, since the leaves may be anything while a function is traced; the op looks again at every call."""
    pairs = object.__new__(GraphPairs)
    for name, value in zip(_FIELDS, leaves, strict=True):
        object.__setattr__(pairs, name, value)
    return pairs


pytree.register_pytree_node(
    GraphPairs,
    lambda pairs: ([getattr(pairs, name) for name in _FIELDS], ()),
    _unflatten,
    serialized_type_name="unitrans.GraphPairs",
    to_dumpable_context=list,
    from_dumpable_context=lambda context: (),
    flatten_with_keys_fn=lambda pairs: (
        [(pytree.GetAttrKey(name), getattr(pairs, name)) for name in _FIELDS],
        (),
    ),
)


def _cumulative(counts: ArrayLike) -> np.ndarray:
    sizes = np.asarray(counts, dtype=np.int64).reshape(-1)
    return np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
