// What the torch operators of the pair bias share on every device: the arguments of the schema, turned into a problem.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

#include "unitrans/pair_bias.hpp"

namespace unitrans::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Owns what it had to make contiguous.
struct PairBiasCall {
    Tensor spatial, hop, token, cu_nodes, distance, hops;
    unitrans::PairBias problem;

    PairBiasCall(const Tensor& spatial_in, const Tensor& hop_in, const Tensor& token_in,
                 const Tensor& cu_nodes_in, const Tensor& distance_in, const Tensor& hops_in,
                 int64_t num_nodes, int64_t max_divisor, int64_t max_distance)
        : spatial(torch::stable::contiguous(spatial_in)),
          hop(torch::stable::contiguous(hop_in)),
          token(torch::stable::contiguous(token_in)),
          cu_nodes(torch::stable::contiguous(cu_nodes_in)),
          distance(torch::stable::contiguous(distance_in)),
          hops(torch::stable::contiguous(hops_in)) {
        STD_TORCH_CHECK(spatial.scalar_type() == hop.scalar_type() &&
                            spatial.scalar_type() == token.scalar_type(),
                        "unitrans: the tables of pair_bias must have one dtype");
        problem.dtype = spatial.scalar_type() == ScalarType::Double ? unitrans::DType::kFloat64
                                                                    : unitrans::DType::kFloat32;
        problem.num_graphs = cu_nodes.size(0) - 1;
        problem.num_heads = spatial.size(1);
        problem.num_spatial = spatial.size(0);
        problem.num_hops = hop.size(0);
        problem.num_codes = hop.size(1);
        problem.max_divisor = max_divisor;
        problem.max_distance = max_distance;
        problem.plane_size = distance.size(0) + 2 * num_nodes + problem.num_graphs;
        problem.cu_nodes = static_cast<const int32_t*>(cu_nodes.data_ptr());
        problem.distance = static_cast<const int16_t*>(distance.data_ptr());
        problem.hops = static_cast<const int32_t*>(hops.data_ptr());
        problem.spatial = spatial.data_ptr();
        problem.hop = hop.data_ptr();
        problem.token = token.data_ptr();
    }
};

}  // namespace unitrans::bindings
