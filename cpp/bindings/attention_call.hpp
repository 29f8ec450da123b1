// What the torch operators of attention share on every device: the arguments of the schema, turned into a problem.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include "unitrans/attention.hpp"

namespace unitrans::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline unitrans::DType core_dtype(const Tensor& x) {
    switch (x.scalar_type()) {
        case ScalarType::Float:
            return unitrans::DType::kFloat32;
        case ScalarType::BFloat16:
            return unitrans::DType::kBFloat16;
        case ScalarType::Half:
            return unitrans::DType::kFloat16;
        case ScalarType::Double:
            return unitrans::DType::kFloat64;
        default:
            STD_TORCH_CHECK(false, "unitrans: unsupported dtype of q");
    }
}

inline ScalarType accumulate_type(const Tensor& x) {
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The kernels read rows of unit stride; expanded gradients (of a sum, say) do not have it.
inline Tensor unit_stride(const Tensor& x) {
    const int64_t last = x.dim() - 1;
    return x.stride(last) == 1 || x.size(last) <= 1 ? x : torch::stable::contiguous(x);
}

inline unitrans::ConstRows const_rows(const Tensor& x) {
    return {x.data_ptr(), x.stride(0), x.stride(1)};
}
inline unitrans::Rows rows(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }
inline unitrans::ConstRows as_const(const unitrans::Rows& x) {
    return {x.data, x.row_stride, x.head_stride};
}

// The rows of q (0), k (1) or v (2) in one tensor [T, 3, N, D]: no views, each of which costs as
// much as a tenth of a small call.
inline unitrans::Rows rows_inside(const Tensor& packed, int64_t which) {
    char* first = static_cast<char*>(packed.data_ptr());
    const int64_t bytes = static_cast<int64_t>(packed.element_size());
    return {first + which * packed.stride(1) * bytes, packed.stride(0), packed.stride(2)};
}

template <class T>
const T* optional_data(const OptionalTensor& x) {
    if (!x) return nullptr;
    STD_TORCH_CHECK(x->is_contiguous(), "unitrans: the tensors of a plan must be contiguous");
    return static_cast<const T*>(x->data_ptr());
}

// The arguments that forward and backward share, in schema order. Owns what it had to make contiguous.
// Without k and v all three are in q [T, 3, N, D].
struct Call {
    Tensor q;
    OptionalTensor k, v;
    Tensor scale;
    OptionalTensor bias;
    unitrans::Problem problem;

    Call(const Tensor& q_in, const OptionalTensor& k_in, const OptionalTensor& v_in,
         const Tensor& cu_seqlens, const OptionalTensor& token_index,
         const OptionalTensor& position, const OptionalTensor& key_cu_seqlens,
         const OptionalTensor& key_token_index, const OptionalTensor& key_position,
         const OptionalTensor& bias_offset, const OptionalTensor& bias_row_stride,
         const OptionalTensor& reach, const OptionalTensor& bias_in, const Tensor& scale_in,
         bool qk_norm, double dropout_p)
        : q(unit_stride(q_in)), scale(torch::stable::contiguous(scale_in)) {
        problem.dtype = core_dtype(q);
        problem.num_queries = problem.num_keys = q.size(0);
        problem.num_heads = q.size(q.dim() - 2);
        problem.head_dim = q.size(q.dim() - 1);
        if (k_in && v_in) {
            k = unit_stride(*k_in), v = unit_stride(*v_in);
            problem.num_keys = k->size(0);
            problem.q = const_rows(q), problem.k = const_rows(*k), problem.v = const_rows(*v);
        } else {
            STD_TORCH_CHECK(q.dim() == 4 && q.size(1) == 3, "unitrans: expected [T, 3, N, D]");
            problem.q = as_const(rows_inside(q, 0));
            problem.k = as_const(rows_inside(q, 1));
            problem.v = as_const(rows_inside(q, 2));
        }
        problem.scale = scale.data_ptr();
        problem.qk_norm = qk_norm;
        problem.dropout_p = dropout_p;
        unitrans::Plan& plan = problem.plan;
        plan.num_groups = cu_seqlens.size(0) - 1;
        plan.query = {optional_data<int32_t>(cu_seqlens), optional_data<int32_t>(token_index),
                      optional_data<int32_t>(position)};
        plan.key = plan.query;
        if (key_cu_seqlens) {
            plan.key = {optional_data<int32_t>(key_cu_seqlens),
                        optional_data<int32_t>(key_token_index),
                        optional_data<int32_t>(key_position)};
            plan.keys_repeat = true;
        }
        plan.reach = optional_data<int32_t>(reach);
        if (bias_in) {
            bias = torch::stable::contiguous(*bias_in);
            problem.bias = bias->data_ptr();
            problem.bias_size = bias->size(1);
            plan.bias_offset = optional_data<int64_t>(bias_offset);
            plan.bias_row_stride = optional_data<int32_t>(bias_row_stride);
        }
    }
};

// Where gradients go: dq, dk, dv, or all into dq [T, 3, N, D].
inline unitrans::Gradients gradients_into(const Tensor& dq, const OptionalTensor& dk,
                                          const OptionalTensor& dv) {
    if (dk && dv) return {rows(dq), rows(*dk), rows(*dv)};
    return {rows_inside(dq, 0), rows_inside(dq, 1), rows_inside(dq, 2)};
}

// What a backward takes and gives beside the call. Owns what it had to make contiguous, d(bias) and d(scale).
struct GradientCall {
    Tensor grad_out;
    OptionalTensor grad_lse;
    Tensor dbias, dscale;  // empty where not wanted
    unitrans::Gradients gradients;

    // Into dq, dk, dv of any strides with unit stride in the last dimension, or into one tensor as the call has.
    GradientCall(const Call& call, const Tensor& grad_out_in, const OptionalTensor& grad_lse_in,
                 const Tensor& dq, const OptionalTensor& dk, const OptionalTensor& dv,
                 bool need_bias, bool need_scale)
        : grad_out(unit_stride(grad_out_in)), gradients(gradients_into(dq, dk, dv)) {
        if (grad_lse_in) grad_lse = torch::stable::contiguous(*grad_lse_in);
        const Tensor& scale = call.scale;
        need_bias = need_bias && call.bias;
        dbias = need_bias
                    ? torch::stable::new_empty(*call.bias, {call.bias->size(0), call.bias->size(1)})
                    : torch::stable::new_empty(scale, {0});
        dscale = torch::stable::new_empty(scale, {need_scale ? scale.size(0) : 0});
        if (need_bias) gradients.dbias = dbias.data_ptr();
        if (need_scale) gradients.dscale = dscale.data_ptr();
    }

    unitrans::BackwardInputs inputs() const {
        return {const_rows(grad_out), grad_lse ? grad_lse->data_ptr() : nullptr};
    }
};

// The arguments of UNITRANS_CALL_SCHEMA (torch_ops.cpp), as parameters and as what a Call is made of.
#define UNITRANS_CALL_PARAMETERS                                                                 \
    const Tensor &cu_seqlens, const OptionalTensor &token_index, const OptionalTensor &position, \
        const OptionalTensor &key_cu_seqlens, const OptionalTensor &key_token_index,             \
        const OptionalTensor &key_position, const OptionalTensor &bias_offset,                   \
        const OptionalTensor &bias_row_stride, const OptionalTensor &reach,                      \
        [[maybe_unused]] int64_t max_group_size, [[maybe_unused]] int64_t max_key_group_size,    \
        const OptionalTensor &bias, const Tensor &scale, bool qk_norm, double dropout_p,         \
        const OptionalTensor &dropout_seed, [[maybe_unused]] int64_t isa
#define UNITRANS_CALL_ARGUMENTS                                                                \
    q, k, v, cu_seqlens, token_index, position, key_cu_seqlens, key_token_index, key_position, \
        bias_offset, bias_row_stride, reach, bias, scale, qk_norm, dropout_p

}  // namespace unitrans::bindings
