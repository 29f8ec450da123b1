// What the torch operators of the pair bias share on every device: the arguments of the schema, turned into a problem.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <tuple>

#include "argument_checks.hpp"
#include "unitrans/pair_bias.hpp"

namespace unitrans::bindings {

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
        check(num_nodes, max_divisor);
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
        problem.num_nodes = num_nodes;
    }

    // The gradient of the planes, contiguous.
    Tensor checked_grad(const Tensor& grad) const {
        Arguments(spatial).check("grad", grad, spatial.scalar_type(),
                                 {problem.num_heads, problem.plane_size});
        return torch::stable::contiguous(grad);
    }

  private:
    // All that needs no value of a list.
    void check(int64_t num_nodes, int64_t max_divisor) const {
        const Arguments arguments(spatial);
        const ScalarType dtype = spatial.scalar_type();
        if (dtype != ScalarType::Float && dtype != ScalarType::Double)
            refuse("spatial: expected Float or Double, got ", torch::headeronly::toString(dtype));
        if (spatial.dim() != 2 || spatial.size(0) < 1)
            refuse("spatial: expected [S, N] with S > 0, got ", join(spatial.sizes()));
        if (hop.dim() != 3 || hop.size(1) < 1)
            refuse("hop: expected [K, U + 1, N], got ", join(hop.sizes()));
        if (cu_nodes.dim() != 1 || cu_nodes.size(0) < 1)
            refuse("cu_nodes: expected Int [B + 1], got ", join(cu_nodes.sizes()));
        if (distance.dim() != 1)
            refuse("distance: expected Short [R], got ", join(distance.sizes()));
        if (num_nodes < 0) refuse("num_nodes: expected at least 0, got ", num_nodes);
        if (max_divisor < 1) refuse("max_divisor: expected at least 1, got ", max_divisor);
        const int64_t heads = spatial.size(1);
        arguments.check("hop", hop, dtype, {hop.size(0), hop.size(1), heads});
        arguments.check("token", token, dtype, {heads});
        arguments.check("cu_nodes", cu_nodes, ScalarType::Int, {cu_nodes.size(0)});
        arguments.check("distance", distance, ScalarType::Short, {distance.size(0)});
        arguments.check("hops", hops, ScalarType::Int, {distance.size(0), hop.size(0)});
    }
};

}  // namespace unitrans::bindings
