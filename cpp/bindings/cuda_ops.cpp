// The torch operators on CUDA tensors: the same schema as torch_ops.cpp and pair_bias_ops.cpp, in a library of its own that is
// loaded only where torch sees a GPU (unitrans/ops/compiled.py).
//
// torch's stream comes from libtorch_cuda, looked up when the first call needs it: the library has no symbol that a torch
// for CPUs lacks. Memory comes from torch's allocator, on the current stream, so that nothing waits and CUDA graphs work.

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "attention_call.hpp"
#include "pair_bias_call.hpp"
#include "unitrans/cuda/attention.hpp"

namespace {

using namespace unitrans::bindings;
using torch::stable::accelerator::DeviceGuard;

void* current_stream(int32_t device) {
    using Function = int32_t (*)(int32_t device, void** stream);
    static const auto function = [] {
        void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
        return reinterpret_cast<Function>(
            library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
    }();
    if (function == nullptr) refuse("this torch has no CUDA streams");
    void* stream = nullptr;
    if (function(device, &stream) != 0) refuse("torch gives no current CUDA stream");
    return stream;
}

Tensor bytes_on_device(const Tensor& of, size_t count) {
    return torch::stable::new_empty(of, {static_cast<int64_t>(count)}, ScalarType::Byte);
}

// A call, its device made current, and what the host knows of its lists.
struct CudaCall : Call {
    DeviceGuard guard;
    void* stream;
    unitrans::cuda::Sizes sizes;
    const int64_t* seed;

    CudaCall(Call&& call, const OptionalTensor& token_index, const OptionalTensor& key_cu_seqlens,
             const OptionalTensor& key_token_index, int64_t max_group_size,
             int64_t max_key_group_size, const OptionalTensor& dropout_seed)
        : Call(std::move(call)),
          guard(q.get_device_index()),
          stream(current_stream(q.get_device_index())),
          seed(optional_data<int64_t>(dropout_seed)) {
        const char* reason = unitrans::cuda::why_not(problem);
        if (reason != nullptr) refuse(reason);
        sizes.max_group_size = max_group_size;
        sizes.max_key_group_size = max_key_group_size;
        sizes.listed_queries = token_index ? token_index->size(0) : problem.num_queries;
        sizes.listed_keys = key_token_index  ? key_token_index->size(0)
                            : key_cu_seqlens ? problem.num_keys
                                             : sizes.listed_queries;
    }
};

#define UNITRANS_CUDA_CALL                                                            \
    CudaCall({UNITRANS_CALL_ARGUMENTS}, token_index, key_cu_seqlens, key_token_index, \
             max_group_size, max_key_group_size, dropout_seed)

std::tuple<Tensor, Tensor> run_forward(const CudaCall& call, bool need_lse) {
    const Tensor& q = call.q;
    const unitrans::Problem& p = call.problem;
    Tensor out = torch::stable::new_empty(q, {p.num_queries, p.num_heads, p.head_dim});
    Tensor lse = torch::stable::new_empty(q, {need_lse ? p.num_queries : 0, p.num_heads},
                                          accumulate_type(q));
    unitrans::cuda::attention_forward(call.problem, call.sizes, call.seed,
                                      {rows(out), need_lse ? lse.data_ptr() : nullptr},
                                      call.stream);
    return {out, lse};
}

std::tuple<Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             UNITRANS_CALL_PARAMETERS) {
    return run_forward(UNITRANS_CUDA_CALL, true);
}

std::tuple<Tensor, Tensor> attention_forward_eager(const Tensor& q, const OptionalTensor& k,
                                                   const OptionalTensor& v,
                                                   UNITRANS_CALL_PARAMETERS, bool need_lse) {
    return run_forward(UNITRANS_CUDA_CALL, need_lse);
}

std::tuple<Tensor, Tensor> run_backward(const Tensor& grad_out, const OptionalTensor& grad_lse,
                                        const CudaCall& call, const Tensor& dq,
                                        const OptionalTensor& dk, const OptionalTensor& dv,
                                        bool need_bias, bool need_scale) {
    const GradientCall g(call, grad_out, grad_lse, dq, dk, dv, need_bias, need_scale);
    Tensor workspace = bytes_on_device(
        call.scale, unitrans::cuda::backward_workspace(call.problem, call.sizes, g.gradients));
    unitrans::cuda::attention_backward(call.problem, call.sizes, call.seed, g.inputs(), g.gradients,
                                       workspace.data_ptr(), call.stream);
    return {g.dbias, g.dscale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out, const OptionalTensor& grad_lse, const Tensor& q, const Tensor& k,
    const Tensor& v, UNITRANS_CALL_PARAMETERS, bool need_bias, bool need_scale) {
    const CudaCall call = UNITRANS_CUDA_CALL;
    Tensor dq = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)});
    Tensor dk = torch::stable::new_empty(k, {k.size(0), k.size(1), k.size(2)});
    Tensor dv = torch::stable::new_empty(v, {v.size(0), v.size(1), v.size(2)});
    const auto [dbias, dscale] =
        run_backward(grad_out, grad_lse, call, dq, dk, dv, need_bias, need_scale);
    return {dq, dk, dv, dbias, dscale};
}

std::tuple<Tensor, Tensor> attention_backward_into(
    const Tensor& grad_out, const OptionalTensor& grad_lse, const Tensor& q,
    const OptionalTensor& k, const OptionalTensor& v, UNITRANS_CALL_PARAMETERS, const Tensor& dq,
    const OptionalTensor& dk, const OptionalTensor& dv, bool need_bias, bool need_scale) {
    return run_backward(grad_out, grad_lse, UNITRANS_CUDA_CALL, dq, dk, dv, need_bias, need_scale);
}

Tensor pair_bias_forward(const Tensor& spatial, const Tensor& hop, const Tensor& token,
                         const Tensor& cu_nodes, const Tensor& distance, const Tensor& hops,
                         int64_t num_nodes, int64_t max_divisor, int64_t max_distance) {
    const PairBiasCall call(spatial, hop, token, cu_nodes, distance, hops, num_nodes, max_divisor,
                            max_distance);
    const DeviceGuard guard(spatial.get_device_index());
    Tensor planes = torch::stable::new_empty(spatial, {spatial.size(1), call.problem.plane_size});
    Tensor workspace =
        bytes_on_device(spatial, unitrans::cuda::pair_bias_workspace(call.problem, false));
    unitrans::cuda::pair_bias_forward(call.problem, planes.data_ptr(), workspace.data_ptr(),
                                      current_stream(spatial.get_device_index()));
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
    const DeviceGuard guard(spatial.get_device_index());
    const Tensor grad = call.checked_grad(grad_in);
    Tensor grad_spatial = torch::stable::new_empty(spatial, {spatial.size(0), spatial.size(1)});
    Tensor grad_hop = torch::stable::new_empty(hop, {hop.size(0), hop.size(1), hop.size(2)});
    Tensor grad_token = torch::stable::new_empty(token, {token.size(0)});
    Tensor workspace =
        bytes_on_device(spatial, unitrans::cuda::pair_bias_workspace(call.problem, true));
    unitrans::cuda::pair_bias_backward(
        call.problem, grad.data_ptr(), grad_spatial.data_ptr(), grad_hop.data_ptr(),
        grad_token.data_ptr(), workspace.data_ptr(), current_stream(spatial.get_device_index()));
    return {grad_spatial, grad_hop, grad_token};
}

}  // namespace

// Null, or why the operators cannot run here; for unitrans/ops/compiled.py, before anything is asked of a GPU.
extern "C" __attribute__((visibility("default"))) const char* unitrans_cuda_why_not() {
    return unitrans::cuda::why_not_here();
}

STABLE_TORCH_LIBRARY_IMPL(unitrans, CUDA, m) {
    m.impl("attention_forward", TORCH_BOX(&attention_forward));
    m.impl("attention_backward", TORCH_BOX(&attention_backward));
    m.impl("attention_forward_eager", TORCH_BOX(&attention_forward_eager));
    m.impl("attention_backward_into", TORCH_BOX(&attention_backward_into));
    m.impl("pair_bias_forward", TORCH_BOX(&pair_bias_forward));
    m.impl("pair_bias_backward", TORCH_BOX(&pair_bias_backward));
}
