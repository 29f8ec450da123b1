// What the torch operators of attention share on every device: the arguments of the schema, turned into a problem.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "argument_checks.hpp"
#include "unitrans/attention.hpp"

namespace unitrans::bindings {

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
            refuse("q: expected Float, BFloat16, Half or Double, got ",
                   torch::headeronly::toString(x.scalar_type()));
    }
}

inline ScalarType accumulate_type(const Tensor& x) {
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The kernels read rows of unit stride; expanded gradients (of a sum, say) do not have it.
inline Tensor unit_stride(const Tensor& x) {
    const int64_t last = x.dim() - 1;
    return last < 0 || x.stride(last) == 1 || x.size(last) <= 1 ? x : torch::stable::contiguous(x);
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
    static const T none{};  // null is no list, an empty list is one
    if (!x) return nullptr;
    const void* data = x->data_ptr();
    return data ? static_cast<const T*>(data) : &none;
}

// q [Tq, N, D] with k and v [Tk, N, D], or all of them in q [T, 3, N, D], of one dtype.
inline void check_streams(const Arguments& arguments, const Tensor& q, const OptionalTensor& k,
                          const OptionalTensor& v) {
    if (k.has_value() != v.has_value()) refuse("k and v: expected both or neither");
    if (!k) {
        if (q.dim() != 4 || q.size(1) != 3)
            refuse("q without k and v: expected [T, 3, N, D], got ", join(q.sizes()));
        return;
    }
    if (q.dim() != 3) refuse("q: expected [Tq, N, D], got ", join(q.sizes()));
    if (k->dim() != 3) refuse("k: expected [Tk, N, D], got ", join(k->sizes()));
    arguments.check("k", *k, q.scalar_type(), {k->size(0), q.size(1), q.size(2)});
    arguments.check("v", *v, q.scalar_type(), {k->size(0), q.size(1), q.size(2)});
}

// How the lists of a side are called.
struct SideNames {
    const char *cu_seqlens, *token_index, *position;
};
inline constexpr SideNames kQueryNames{"cu_seqlens", "token_index", "position"};
inline constexpr SideNames kKeyNames{"key_cu_seqlens", "key_token_index", "key_position"};

inline unitrans::Groups checked_groups(const Arguments& arguments, const SideNames& names,
                                       int64_t num_groups, int64_t num_rows,
                                       const Tensor& cu_seqlens, const OptionalTensor& token_index,
                                       const OptionalTensor& position) {
    const int64_t entries =
        token_index && token_index->dim() == 1 ? token_index->size(0) : num_rows;
    if (entries > 0 && num_rows == 0)
        refuse(names.token_index, ": expected no entry for a stream without rows, got ", entries);
    const auto check = [&](const char* name, const OptionalTensor& x, int64_t size) {
        if (x) arguments.check_list(name, *x, ScalarType::Int, {size});
    };
    check(names.cu_seqlens, cu_seqlens, num_groups + 1);
    check(names.token_index, token_index, entries);
    check(names.position, position, entries);
    return {optional_data<int32_t>(cu_seqlens), optional_data<int32_t>(token_index),
            optional_data<int32_t>(position), entries};
}

// The arguments that forward and backward share, in schema order. Owns what it had to make contiguous.
// Without k and v all three are in q [T, 3, N, D]. Plans reach an operator from files, exported programs
// and direct calls too, so everything is checked that needs no value of a list: dtypes, shapes, devices.
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
         bool qk_norm, double dropout_p, const OptionalTensor& dropout_seed)
        : q(unit_stride(q_in)), scale(torch::stable::contiguous(scale_in)) {
        const Arguments arguments(q);
        check_streams(arguments, q, k_in, v_in);
        problem.dtype = core_dtype(q);
        problem.num_queries = problem.num_keys = q.size(0);
        problem.num_heads = q.size(q.dim() - 2);
        problem.head_dim = q.size(q.dim() - 1);
        if (k_in) {
            k = unit_stride(*k_in), v = unit_stride(*v_in);
            problem.num_keys = k->size(0);
            problem.q = const_rows(q), problem.k = const_rows(*k), problem.v = const_rows(*v);
        } else {
            problem.q = as_const(rows_inside(q, 0));
            problem.k = as_const(rows_inside(q, 1));
            problem.v = as_const(rows_inside(q, 2));
        }
        arguments.check("scale", scale, accumulate_type(q), {problem.num_heads});
        problem.scale = scale.data_ptr();
        problem.qk_norm = qk_norm;
        set_dropout(arguments, dropout_p, dropout_seed);
        set_groups(arguments, cu_seqlens, token_index, position, key_cu_seqlens, key_token_index,
                   key_position);
        unitrans::Plan& plan = problem.plan;
        if (reach) arguments.check_list("reach", *reach, ScalarType::Int, {plan.num_groups, 2});
        plan.reach = optional_data<int32_t>(reach);
        set_bias(arguments, bias_in, bias_offset, bias_row_stride);
    }

  private:
    void set_dropout(const Arguments& arguments, double p, const OptionalTensor& seed) {
        if (!(p >= 0 && p < 1)) refuse("dropout_p: expected a number in [0, 1), got ", p);
        problem.dropout_p = p;
        if (seed) {
            if (seed->scalar_type() != ScalarType::Long || seed->numel() != 1)
                refuse("dropout_seed: expected one int64 number, got ", join(seed->sizes()));
            arguments.check_device("dropout_seed", *seed);
        } else if (p > 0) {
            refuse("dropout_seed: expected one int64 number with dropout_p > 0, got None");
        }
    }

    void set_groups(const Arguments& arguments, const Tensor& cu_seqlens,
                    const OptionalTensor& token_index, const OptionalTensor& position,
                    const OptionalTensor& key_cu_seqlens, const OptionalTensor& key_token_index,
                    const OptionalTensor& key_position) {
        unitrans::Plan& plan = problem.plan;
        if (cu_seqlens.dim() != 1 || cu_seqlens.size(0) < 1)
            refuse("cu_seqlens: expected Int [G + 1], got ", join(cu_seqlens.sizes()));
        plan.num_groups = cu_seqlens.size(0) - 1;
        plan.query = checked_groups(arguments, kQueryNames, plan.num_groups, problem.num_queries,
                                    cu_seqlens, token_index, position);
        plan.key = plan.query;
        if (key_cu_seqlens) {
            plan.key = checked_groups(arguments, kKeyNames, plan.num_groups, problem.num_keys,
                                      *key_cu_seqlens, key_token_index, key_position);
            plan.keys_repeat = true;
        } else if (key_token_index || key_position) {
            refuse("key_token_index and key_position: expected None without key_cu_seqlens");
        } else if (problem.num_keys != problem.num_queries) {
            refuse("k and v: expected ", problem.num_queries, " rows as q, got ", problem.num_keys);
        }
    }

    void set_bias(const Arguments& arguments, const OptionalTensor& bias_in,
                  const OptionalTensor& bias_offset, const OptionalTensor& bias_row_stride) {
        unitrans::Plan& plan = problem.plan;
        if (bias_offset.has_value() != bias_row_stride.has_value())
            refuse("bias_offset and bias_row_stride: expected both or neither");
        if (bias_offset) {
            arguments.check_list("bias_offset", *bias_offset, ScalarType::Long, {plan.num_groups});
            arguments.check_list("bias_row_stride", *bias_row_stride, ScalarType::Int,
                                 {plan.num_groups});
        }
        if (!bias_in) return;
        if (!bias_offset) refuse("bias: expected None, the plan has no bias planes");
        bias = torch::stable::contiguous(*bias_in);
        const int64_t entries = bias->dim() == 2 ? bias->size(1) : 0;
        arguments.check("bias", *bias, accumulate_type(q), {problem.num_heads, entries});
        problem.bias = bias->data_ptr();
        problem.bias_size = entries;
        plan.bias_offset = optional_data<int64_t>(bias_offset);
        plan.bias_row_stride = optional_data<int32_t>(bias_row_stride);
    }
};

// Where gradients go: dq, dk, dv, or all into dq [T, 3, N, D], each like the tensor it belongs to.
inline unitrans::Gradients gradients_into(const Call& call, const Tensor& dq,
                                          const OptionalTensor& dk, const OptionalTensor& dv) {
    if (dk.has_value() != call.k.has_value() || dv.has_value() != call.v.has_value())
        refuse("dk and dv: expected where k and v are given, and only there");
    const Arguments arguments(call.q);
    arguments.check_output("dq", dq, call.q);
    if (dk) arguments.check_output("dk", *dk, *call.k);
    if (dv) arguments.check_output("dv", *dv, *call.v);
    if (dk && dv) return {rows(dq), rows(*dk), rows(*dv)};
    return {rows_inside(dq, 0), rows_inside(dq, 1), rows_inside(dq, 2)};
}

// What a backward takes and gives beside the call. Owns what it had to make contiguous, d(bias) and d(scale).
struct GradientCall {
    Tensor grad_out;
    OptionalTensor grad_lse;
    Tensor dbias, dscale;  // empty where not wanted
    unitrans::Gradients gradients;

    // Into dq, dk and dv, or into one tensor as the call has.
    GradientCall(const Call& call, const Tensor& grad_out_in, const OptionalTensor& grad_lse_in,
                 const Tensor& dq, const OptionalTensor& dk, const OptionalTensor& dv,
                 bool need_bias, bool need_scale)
        : grad_out(unit_stride(grad_out_in)), gradients(gradients_into(call, dq, dk, dv)) {
        const unitrans::Problem& p = call.problem;
        const Arguments arguments(call.q);
        arguments.check("grad_out", grad_out, call.q.scalar_type(),
                        {p.num_queries, p.num_heads, p.head_dim});
        if (grad_lse_in) {
            grad_lse = torch::stable::contiguous(*grad_lse_in);
            arguments.check("grad_lse", *grad_lse, accumulate_type(call.q),
                            {p.num_queries, p.num_heads});
        }
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
        bias_offset, bias_row_stride, reach, bias, scale, qk_norm, dropout_p, dropout_seed

}  // namespace unitrans::bindings
