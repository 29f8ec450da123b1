// Graphs: what a host has to know about the nodes, the pairs of nodes and the edges between them.
//
// Many graphs at once, packed and ragged: graph g has the nodes cu_nodes[g] .. cu_nodes[g + 1] and
// the edges cu_edges[g] .. cu_edges[g + 1]; its n * n pairs (i, j), row-major, follow those of the
// graphs before it. What a caller can get wrong is reported by std::invalid_argument.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace unitrans::graph {

// A distance of this or more counts as no path at all, and so does an absent path (Graphormer).
constexpr int16_t kUnreachable = 510;

struct Graphs {
    std::span<const int32_t> cu_nodes;        // [G + 1]
    std::span<const int32_t> cu_edges;        // [G + 1]
    std::span<const int32_t> source, target;  // [E], node numbers inside the graph, 0 .. n - 1
};

// Which of several shortest paths counts, or that only single edges do.
enum class Paths {
    // Breadth first; the neighbours of a node in the order of its edges. O(n * edges).
    kBreadthFirst,
    // As a Floyd-Warshall loop (k outermost) that replaces a path by a strictly shorter one only, and
    // remembers the last k: the choice of the published Graphormer. O(n^3).
    kFloydWarshall,
};

struct PairFeatures {
    std::vector<int32_t> degree;    // [T] different targets of each node's edges, itself included
    std::vector<int16_t> distance;  // [sum n^2] edges of a shortest path from i to j; kUnreachable
    // [sum n^2, hops] codes of the first edges of the path from i to j, 0 behind its end and where
    // there is no path. With hops_are_edges: [sum n^2, 1], the code of the edge (i, j), 0 for none.
    std::vector<int32_t> hops;
};

// edge_code: [E], a positive number for each edge. Of parallel edges the last one counts.
PairFeatures pair_features(const Graphs& graphs, std::span<const int32_t> edge_code, int64_t hops,
                           Paths paths, bool hops_are_edges);

struct UniqueRows {
    std::vector<int32_t> code;   // [rows], 1 + the number of the row among the different ones
    std::vector<int64_t> first;  // [different rows], where each occurs first
};

// Numbers the different rows of values [rows, width] in the order of their first appearance.
UniqueRows unique_rows(std::span<const int64_t> values, int64_t rows, int64_t width);

}  // namespace unitrans::graph
