// The bias planes of graphs from small tables, and the gradients of the tables (the formula: unitrans/pair_bias.hpp).
//
// Forward: a warp has one row of one plane. Backward: rows of planes are cut into chunks; a thread has one chunk and one head
// and adds into a partial table of its own, so that nothing is added twice at once; then the partial tables are summed in
// order, in double.
#pragma once

#include "elements.hpp"
#include "score.hpp"
#include "unitrans/pair_bias.hpp"

namespace unitrans::cuda {

struct PairBiasCall {
    PairBias problem;
    int64_t num_rows = 0;           // of all planes: sum of n + 1
    int64_t* first_pair = nullptr;  // [num_graphs]
    int64_t num_chunks = 0;
    double* parts = nullptr;  // [num_chunks][spatial | hop | token][N]

    // The first node of a graph; graph num_graphs begins behind the last node.
    UNITRANS_DEVICE int64_t first_node(int64_t graph) const {
        return cut(problem.cu_nodes[graph], 0, problem.num_nodes);
    }
    UNITRANS_DEVICE int64_t nodes_of(int64_t graph) const {
        return cut(first_node(graph + 1) - first_node(graph), 0, problem.num_nodes);
    }

    UNITRANS_HOST_DEVICE int64_t table_rows() const {
        return problem.num_spatial + problem.num_hops * problem.num_codes + 1;
    }
};

// One row of a plane.
struct PlaneRow {
    int64_t nodes, row;         // of its graph; its place in the plane
    int64_t first_pair, entry;  // of the row of pairs (row > 0); of the row of the plane

    UNITRANS_DEVICE PlaneRow(const PairBiasCall& call, int64_t index) {
        const PairBias& p = call.problem;
        int64_t low = 0, high = p.num_graphs - 1;  // graph g starts with row first_node(g) + g
        while (low < high) {
            const int64_t middle = (low + high + 1) / 2;
            if (call.first_node(middle) + middle <= index) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        nodes = call.nodes_of(low);
        row = cut(index - call.first_node(low) - low, 0, nodes);
        const int64_t pairs = call.first_pair[low];
        const int64_t num_pairs = p.plane_size - 2 * p.num_nodes - p.num_graphs;
        first_pair = cut(pairs + (row - 1) * nodes, 0, num_pairs - nodes);
        // (n + 1)^2 = n^2 + 2 n + 1
        entry = cut(pairs + 2 * call.first_node(low) + low + row * (nodes + 1), 0,
                    p.plane_size - nodes - 1);
        if (first_pair + nodes > num_pairs || entry + nodes >= p.plane_size) nodes = 0;
    }
};

UNITRANS_DEVICE int64_t spatial_row(const PairBias& p, int64_t distance) {
    return cut(distance + 1, 0, p.num_spatial - 1);
}
UNITRANS_DEVICE int64_t hop_row(const PairBias& p, int64_t pair, int64_t k) {
    return k * p.num_codes + cut(p.hops[pair * p.num_hops + k], 0, p.num_codes - 1);
}

template <class T>
UNITRANS_DEVICE T hop_weight(const PairBias& p, int64_t distance) {
    const int64_t steps = distance < 1 ? 1 : distance;
    return T(1) / static_cast<T>(steps < p.max_divisor ? steps : p.max_divisor);
}

// first_pair: a running sum of n^2. One warp; every thread sums its share of the graphs, then knows where it starts.
struct FirstPairKernel {
    using Arguments = PairBiasCall;
    static constexpr int kWarps = 1, kSharedBytes = 32 * 8;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t, char* memory) {
        int64_t* sums = reinterpret_cast<int64_t*>(memory);
        const int64_t graphs = a.problem.num_graphs;
        const auto begin = [&](int t) { return t * graphs / Team::kThreads; };
        const auto square = [&](int64_t g) { return a.nodes_of(g) * a.nodes_of(g); };
        team.each([&](int t) {
            sums[t] = 0;
            for (int64_t g = begin(t); g < begin(t + 1); ++g) sums[t] += square(g);
        });
        team.sync();
        team.each([&](int t) {
            int64_t at = 0;
            for (int i = 0; i < t; ++i) at += sums[i];
            for (int64_t g = begin(t); g < begin(t + 1); ++g) {
                a.first_pair[g] = at;
                at += square(g);
            }
        });
    }
};

template <class T>
struct PairBiasForwardKernel {
    struct Arguments {
        PairBiasCall call;
        T* planes;
    };
    static constexpr int kWarps = 1, kSharedBytes = 0;

    // Item: a row of a plane.
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        const PairBias& p = a.call.problem;
        const PlaneRow at(a.call, item);
        const int64_t side = at.nodes + 1;
        team.each([&](int t) {
            for (int64_t i = t; i < side * p.num_heads; i += Team::kThreads) {
                const int64_t column = i % side, head = i / side;
                a.planes[head * p.plane_size + at.entry + column] = value(p, at, column, head);
            }
        });
    }

    UNITRANS_DEVICE static T value(const PairBias& p, const PlaneRow& at, int64_t column,
                                   int64_t head) {
        if (at.row == 0 || column == 0) return static_cast<const T*>(p.token)[head];
        const int64_t pair = at.first_pair + column - 1, distance = p.distance[pair];
        if (distance >= p.max_distance) return static_cast<T>(minus_infinity());
        T sum = 0;
        for (int64_t k = 0; k < p.num_hops; ++k) {
            sum += static_cast<const T*>(p.hop)[hop_row(p, pair, k) * p.num_heads + head];
        }
        return static_cast<const T*>(p.spatial)[spatial_row(p, distance) * p.num_heads + head] +
               sum * hop_weight<T>(p, distance);
    }
};

template <class T>
struct PairBiasBackwardKernel {
    struct Arguments {
        PairBiasCall call;
        const T* grad;
    };
    static constexpr int kWarps = 1, kSharedBytes = 0;

    // Item: (chunk, 32 heads).
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        const PairBiasCall& call = a.call;
        const PairBias& p = call.problem;
        const int64_t blocks = (p.num_heads + Team::kThreads - 1) / Team::kThreads,
                      chunk = item / blocks;
        const int64_t first = chunk * call.num_rows / call.num_chunks,
                      last = (chunk + 1) * call.num_rows / call.num_chunks;
        team.each([&](int t) {
            const int64_t head = item % blocks * Team::kThreads + t;
            if (head >= p.num_heads) return;
            double* table = call.parts + chunk * call.table_rows() * p.num_heads + head;
            double token = 0;
            for (int64_t row = first; row < last; ++row)
                token += add_row(p, PlaneRow(call, row), a.grad, head, table);
            table[(call.table_rows() - 1) * p.num_heads] = token;
        });
    }

    // Adds a row of a plane to the tables; returns its share of the graph token.
    UNITRANS_DEVICE static double add_row(const PairBias& p, const PlaneRow& at, const T* grad,
                                          int64_t head, double* table) {
        const T* g = grad + head * p.plane_size + at.entry;
        double token = g[0];
        for (int64_t column = 1; column <= at.nodes; ++column) {
            if (at.row == 0) {
                token += g[column];
                continue;
            }
            const int64_t pair = at.first_pair + column - 1, distance = p.distance[pair];
            if (distance >= p.max_distance) continue;
            table[spatial_row(p, distance) * p.num_heads] += g[column];
            const T weighted = g[column] * hop_weight<T>(p, distance);
            for (int64_t k = 0; k < p.num_hops; ++k) {
                table[(p.num_spatial + hop_row(p, pair, k)) * p.num_heads] += weighted;
            }
        }
        return token;
    }
};

template <class T>
struct SumTablesKernel {
    struct Arguments {
        PairBiasCall call;
        T *spatial, *hop, *token;
    };
    static constexpr int kWarps = 1, kSharedBytes = 0;

    // Item: 32 entries of the tables.
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        const PairBias& p = a.call.problem;
        const int64_t heads = p.num_heads, size = a.call.table_rows() * heads;
        const int64_t after_spatial = p.num_spatial * heads, after_hop = size - heads;
        team.each([&](int t) {
            const int64_t i = item * Team::kThreads + t;
            if (i >= size) return;
            double sum = 0;
            for (int64_t c = 0; c < a.call.num_chunks; ++c) sum += a.call.parts[c * size + i];
            T* to = i < after_spatial ? a.spatial + i
                    : i < after_hop   ? a.hop + i - after_spatial
                                      : a.token + i - after_hop;
            *to = static_cast<T>(sum);
        });
    }
};

// Pieces of the workspace, in one place for its size and its use.
struct PairBiasWorkspace {
    size_t bytes = 0;
    PairBiasCall call;

    PairBiasWorkspace(const PairBias& p, bool is_backward, void* memory) {
        const auto take = [&](int64_t size) {
            char* piece = memory ? static_cast<char*>(memory) + bytes : nullptr;
            bytes += static_cast<size_t>((size + 255) / 256 * 256);
            return piece;
        };
        call.problem = p;
        call.num_rows = p.num_nodes + p.num_graphs;
        call.first_pair = reinterpret_cast<int64_t*>(take(8 * p.num_graphs));
        if (!is_backward) return;
        // Partial tables take no more memory than twice the planes, or 1 MiB.
        const int64_t table = call.table_rows() * p.num_heads;
        const int64_t room = (p.plane_size * p.num_heads + (1 << 17)) / table;
        const int64_t wanted = call.num_rows < 512 ? call.num_rows : 512;
        call.num_chunks = room < wanted ? room : wanted;
        call.num_chunks = call.num_chunks < 1 ? 1 : call.num_chunks;
        call.parts = reinterpret_cast<double*>(take(8 * call.num_chunks * table));
    }
};

template <class T, class Launcher>
void pair_bias_planes(Launcher& launcher, const PairBias& p, T* planes, void* memory) {
    if (p.num_graphs == 0) return;
    const PairBiasWorkspace w(p, false, memory);
    launcher.template run<FirstPairKernel>(w.call, 1);
    launcher.template run<PairBiasForwardKernel<T>>({w.call, planes}, w.call.num_rows);
}

template <class T, class Launcher>
void pair_bias_tables(Launcher& launcher, const PairBias& p, const T* grad, T* spatial, T* hop,
                      T* token, void* memory) {
    const PairBiasWorkspace w(p, true, memory);
    const int64_t size = w.call.table_rows() * p.num_heads;
    launcher.zero(w.call.parts, 8 * w.call.num_chunks * size);
    if (p.num_graphs > 0) {
        launcher.template run<FirstPairKernel>(w.call, 1);
        launcher.template run<PairBiasBackwardKernel<T>>(
            {w.call, grad}, w.call.num_chunks * ((p.num_heads + 31) / 32));
    }
    launcher.template run<SumTablesKernel<T>>({w.call, spatial, hop, token}, (size + 31) / 32);
}

}  // namespace unitrans::cuda
