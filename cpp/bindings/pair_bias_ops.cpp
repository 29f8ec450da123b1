// The torch operators that build the bias planes of graphs; shapes for tracing and the gradient formula are in
// unitrans/ops/pair_bias.py.

#include "pair_bias_call.hpp"

namespace {

using namespace unitrans::bindings;

void parallel(int64_t num_tasks, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) body(task);
    });
}

void check_lists(const PairBiasCall& call) {
    const std::string fault = unitrans::pair_bias_fault(call.problem, call.distance.size(0));
    if (!fault.empty()) refuse(fault);
}

Tensor pair_bias_forward(const Tensor& spatial, const Tensor& hop, const Tensor& token,
                         const Tensor& cu_nodes, const Tensor& distance, const Tensor& hops,
                         int64_t num_nodes, int64_t max_divisor, int64_t max_distance) {
    const PairBiasCall call(spatial, hop, token, cu_nodes, distance, hops, num_nodes, max_divisor,
                            max_distance);
    check_lists(call);
    Tensor planes = torch::stable::new_empty(spatial, {spatial.size(1), call.problem.plane_size});
    unitrans::pair_bias_forward(call.problem, planes.data_ptr(), parallel);
    return planes;
}

std::tuple<Tensor, Tensor, Tensor> pair_bias_backward(const Tensor& grad_in, const Tensor& spatial,
                                                      const Tensor& hop, const Tensor& token,
                                                      const Tensor& cu_nodes,
                                                      const Tensor& distance, const Tensor& hops,
                                                      int64_t num_nodes, int64_t max_divisor,
                                                      int64_t max_distance) {
    const PairBiasCall call(spatial, hop, token, cu_nodes, distance, hops, num_nodes, max_divisor,
                            max_distance);
    check_lists(call);
    const Tensor grad = call.checked_grad(grad_in);
    Tensor grad_spatial = torch::stable::new_empty(spatial, {spatial.size(0), spatial.size(1)});
    Tensor grad_hop = torch::stable::new_empty(hop, {hop.size(0), hop.size(1), hop.size(2)});
    Tensor grad_token = torch::stable::new_empty(token, {token.size(0)});
    unitrans::pair_bias_backward(call.problem, grad.data_ptr(), grad_spatial.data_ptr(),
                                 grad_hop.data_ptr(), grad_token.data_ptr(), parallel);
    return {grad_spatial, grad_hop, grad_token};
}

}  // namespace

#define UNITRANS_PAIR_BIAS_SCHEMA                                                               \
    "Tensor spatial, Tensor hop, Tensor token, Tensor cu_nodes, Tensor distance, Tensor hops, " \
    "SymInt num_nodes, SymInt max_divisor, SymInt max_distance"

STABLE_TORCH_LIBRARY_FRAGMENT(unitrans, m) {
    m.def("pair_bias_forward(" UNITRANS_PAIR_BIAS_SCHEMA ") -> Tensor");
    m.def("pair_bias_backward(Tensor grad, " UNITRANS_PAIR_BIAS_SCHEMA
          ") -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(unitrans, CPU, m) {
    m.impl("pair_bias_forward", TORCH_BOX(&pair_bias_forward));
    m.impl("pair_bias_backward", TORCH_BOX(&pair_bias_backward));
}
