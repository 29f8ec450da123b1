// The bias planes of graphs from small tables, and the gradients of the tables.
//
// A graph of n nodes has a plane [n + 1, n + 1]: its graph token first, then its nodes. For head h and
// the nodes i and j, at distance d, whose path has the codes c_0 .. c_{K-1}:
//
//     plane[i + 1, j + 1] = spatial[d + 1, h] + sum_k hop[k, c_k, h] / min(max(d, 1), max_divisor)
//     plane[0, *] = plane[i + 1, 0] = token[h]
//
// and -inf, without gradient, where d >= max_distance (Graphormer, Ying et al. 2021, sections 3.1.2
// and 3.1.3). A distance for which the spatial table has no row takes its last one. Code 0 is "no edge"
// and has a row of its own.
//
// The functions check nothing: a caller whose lists come from outside asks pair_bias_fault first. Results are bit-equal for any number of threads.
#pragma once

#include <cstdint>
#include <string>

#include "unitrans/attention.hpp"

namespace unitrans {

// "Element type" is float, or double when dtype is kFloat64 (no other is taken).
struct PairBias {
    DType dtype = DType::kFloat32;
    int64_t num_graphs = 0;
    int64_t num_nodes = 0;  // of all graphs
    int64_t num_heads = 0;  // N
    int64_t num_spatial = 0;
    int64_t num_hops = 0;   // K
    int64_t num_codes = 0;  // rows of `hop` for each k
    int64_t max_divisor = 1;
    int64_t max_distance = 0;
    int64_t plane_size = 0;             // P = sum (n + 1)^2
    const int32_t* cu_nodes = nullptr;  // [num_graphs + 1]
    const int16_t* distance = nullptr;  // [sum n^2]
    const int32_t* hops = nullptr;      // [sum n^2, K]
    const void* spatial = nullptr;      // [num_spatial, N], element type
    const void* hop = nullptr;          // [K, num_codes, N]
    const void* token = nullptr;        // [N]
};

// Empty, or in words the first list that would make the functions read or write where they must not:
// graphs whose sizes fall or do not make `num_pairs` pairs, a distance below 0, a code without a row.
std::string pair_bias_fault(const PairBias& problem, int64_t num_pairs);

// planes: [N, P], element type.
void pair_bias_forward(const PairBias& problem, void* planes, const Parallel& parallel);

// Sums are in fp64. None of the outputs may be null.
void pair_bias_backward(const PairBias& problem, const void* grad_planes, void* grad_spatial,
                        void* grad_hop, void* grad_token, const Parallel& parallel);

}  // namespace unitrans
