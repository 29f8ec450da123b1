"""Distances, paths and degrees of graphs against SciPy, NetworkX and the loop written out in plain Python."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

from unitrans.ops.graphs import UNREACHABLE, GraphPairs


@st.composite
def graphs(draw):
    """(nodes, edges as pairs, features of the edges): directed, with loops and parallel edges."""
    n = draw(st.integers(0, 9))
    node = st.integers(0, max(n - 1, 0))
    edges = draw(st.lists(st.tuples(node, node), max_size=25)) if n else []
    features = draw(
        st.lists(st.integers(0, 3), min_size=2 * len(edges), max_size=2 * len(edges)).map(
            lambda values: np.array(values, dtype=np.int64).reshape(-1, 2)
        )
    )
    return n, edges, features


def pairs_of(batch, **options) -> GraphPairs:
    edges = [edge for _, listed, _ in batch for edge in listed]
    index = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    features = np.concatenate([np.zeros((0, 2), np.int64), *(f for _, _, f in batch)])
    return GraphPairs.from_edges(
        [n for n, _, _ in batch], [len(e) for _, e, _ in batch], index, features, **options
    )


def split(values, batch, per_pair: bool):
    start, parts = 0, []
    for n, _, _ in batch:
        size = n * n if per_pair else n
        part = values[start : start + size].numpy()
        parts.append(part.reshape(n, n, *part.shape[1:]) if per_pair else part)
        start += size
    assert start == len(values)
    return parts


@given(st.lists(graphs(), max_size=4), st.sampled_from(["official", "bfs"]), st.integers(1, 6))
def test_distances_degrees_and_paths(batch, paths, hops) -> None:
    """Distances are SciPy's and NetworkX's, each path is a shortest one along edges, with their features."""
    pairs = pairs_of(batch, paths=paths, hops=hops)
    distances, codes = split(pairs.distance, batch, True), split(pairs.hops, batch, True)
    degrees = split(pairs.degree, batch, False)
    for (n, edges, features), distance, code, degree in zip(batch, distances, codes, degrees, strict=True):
        last = {edge: tuple(features[e]) for e, edge in enumerate(edges)}
        assert degree.tolist() == [sum(source == i for source, _ in last) for i in range(n)]
        if n:
            source, target = np.array([*last]).reshape(-1, 2).T
            matrix = csr_matrix((np.ones(len(last)), (source, target)), shape=(n, n))
            want = shortest_path(matrix, unweighted=True)
            want[np.isinf(want)] = UNREACHABLE
            assert np.array_equal(distance, want)
        graph = nx.DiGraph(list(last))
        graph.add_nodes_from(range(n))
        for i, reached in nx.all_pairs_shortest_path_length(graph):
            assert {j: int(d) for j, d in enumerate(distance[i]) if d != UNREACHABLE} == dict(reached)
        for i in range(n):
            for j in range(n):
                length = 0 if distance[i, j] == UNREACHABLE else min(distance[i, j], hops)
                assert (code[i, j, :length] > 0).all() and (code[i, j, length:] == 0).all()
                walk = [tuple(pairs.edges[c - 1].tolist()) for c in code[i, j, :length]]
                if length == distance[i, j]:
                    assert length == 0 or walk in walks(graph, last, i, j)


def walks(graph: nx.DiGraph, features, i: int, j: int) -> list[list[tuple[int, ...]]]:
    """The edge features along every shortest path from i to j."""
    return [
        [features[edge] for edge in itertools.pairwise(path)] for path in nx.all_shortest_paths(graph, i, j)
    ]


def published_path(n: int, edges, i: int, j: int) -> list[int]:
    """The nodes of the path of the published loop: for each pair the last k that made it strictly shorter."""
    distance = {(a, b): 0 if a == b else 1 if (a, b) in edges else 510 for a in range(n) for b in range(n)}
    by = {}
    for k in range(n):
        for a in range(n):
            for b in range(n):
                if distance[a, k] + distance[k, b] < distance[a, b]:
                    distance[a, b], by[a, b] = distance[a, k] + distance[k, b], k

    def between(a: int, b: int) -> list[int]:
        return [] if (a, b) not in by else [*between(a, by[a, b]), by[a, b], *between(by[a, b], b)]

    return [] if distance[i, j] >= 510 else [i, *between(i, j), j]


@given(graphs(), st.integers(1, 6))
def test_official_ties(graph, hops) -> None:
    n, edges, _ = graph
    numbered = np.array([[e, 0] for e in range(len(edges))], dtype=np.int64).reshape(-1, 2)
    pairs = pairs_of([(n, edges, numbered)], hops=hops)
    for i in range(n):
        for j in range(n):
            code = pairs.hops[i * n + j].tolist()
            walked = [edges[int(pairs.edges[c - 1, 0])] for c in code if c]
            path = published_path(n, set(edges), i, j) if i != j else []
            assert walked == list(itertools.pairwise(path))[:hops]


@given(graphs())
def test_single_edges(graph) -> None:
    n, edges, features = graph
    pairs = pairs_of([graph], hops_are_edges=True)
    last = {edge: features[e].tolist() for e, edge in enumerate(edges)}
    for i in range(n):
        for j in range(n):
            code = int(pairs.hops[i * n + j, 0])
            assert (pairs.edges[code - 1].tolist() if code else None) == last.get((i, j))


def test_very_long_paths_do_not_count() -> None:
    """A distance of 510 or more is none, whichever rule finds it."""
    n = 520
    edges = [(i, i + 1) for i in range(n - 1)]
    for paths in ("official", "bfs"):
        pairs = pairs_of([(n, edges, np.zeros((n - 1, 2), np.int64))], paths=paths)
        distance, code = pairs.distance.view(n, n), pairs.hops.view(n, n, -1)
        assert distance[0, 509] == 509 and (distance[0, 510:] == UNREACHABLE).all()
        assert (code[0, 509] == 1).all() and (code[0, 510:] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": [[0, 1], [1, 2]]}, "graph 0, edge 1: expected nodes from 0 to 1, got 2"),
        ({"num_edges": [3]}, "cu_edges: expected to end at 2, got 3"),
        ({"num_nodes": [-1]}, "cu_nodes: expected to never fall"),
        ({"edge_attr": [[0]]}, r"edge_attr: expected \[2 edges, features\]"),
        ({"edge_index": [0, 1]}, "edge_index: expected"),
        ({"hops": 0}, "hops: expected at least 1"),
        ({"paths": "dijkstra"}, "paths: expected one of official, bfs"),
        ({"num_edges": [1, 1]}, "cu_edges: expected as many entries"),
    ],
)
def test_wrong_graphs_are_named(change, message) -> None:
    good = {"num_nodes": [2], "num_edges": [2], "edge_index": [[0, 1], [1, 0]], "edge_attr": [[0], [1]]}
    GraphPairs.from_edges(**good)
    with pytest.raises(ValueError, match=message):
        GraphPairs.from_edges(**(good | change))
