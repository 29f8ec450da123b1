// The torch operators, through torch's stable ABI: schema, and the launcher that turns tensors into pointers.
//
// The shapes for tracing and the gradient formula are registered once in Python (unitrans/ops/compiled.py).

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include "huge_pages.hpp"
#include "unitrans/attention.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

unitrans::DType core_dtype(const Tensor& x) {
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

ScalarType accumulate_type(const Tensor& x) {
    return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The kernels read rows of unit stride; expanded gradients (of a sum, say) do not have it.
Tensor unit_stride(const Tensor& x) {
    const int64_t last = x.dim() - 1;
    return x.stride(last) == 1 || x.size(last) <= 1 ? x : torch::stable::contiguous(x);
}

unitrans::ConstRows const_rows(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }
unitrans::Rows rows(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }
unitrans::ConstRows as_const(const unitrans::Rows& x) {
    return {x.data, x.row_stride, x.head_stride};
}

// The rows of q (0), k (1) or v (2) in one tensor [T, 3, N, D]: no views, each of which costs as
// much as a tenth of a small call.
unitrans::Rows rows_inside(const Tensor& packed, int64_t which) {
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
    unitrans::Isa isa;

    Call(const Tensor& q_in, const OptionalTensor& k_in, const OptionalTensor& v_in,
         const Tensor& cu_seqlens, const OptionalTensor& token_index,
         const OptionalTensor& position, const OptionalTensor& key_cu_seqlens,
         const OptionalTensor& key_token_index, const OptionalTensor& key_position,
         const OptionalTensor& bias_offset, const OptionalTensor& bias_row_stride,
         const OptionalTensor& reach, const OptionalTensor& bias_in, const Tensor& scale_in,
         bool qk_norm, double dropout_p, const OptionalTensor& dropout_seed, int64_t isa_in)
        : q(unit_stride(q_in)),
          scale(torch::stable::contiguous(scale_in)),
          isa(isa_in < 0 ? unitrans::best_isa() : static_cast<unitrans::Isa>(isa_in)) {
        STD_TORCH_CHECK(isa <= unitrans::best_isa(),
                        "unitrans: this processor cannot run that instruction set");
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
        if (dropout_seed) {
            problem.dropout_seed =
                static_cast<uint64_t>(*static_cast<const int64_t*>(dropout_seed->data_ptr()));
        }
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

// torch's own thread pool: an extension with a pool of its own would oversubscribe the machine.
void parallel(int64_t num_tasks, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) body(task);
    });
}

// The arguments of UNITRANS_CALL_SCHEMA, as parameters and as what is passed on.
#define UNITRANS_CALL_PARAMETERS                                                                 \
    const Tensor &cu_seqlens, const OptionalTensor &token_index, const OptionalTensor &position, \
        const OptionalTensor &key_cu_seqlens, const OptionalTensor &key_token_index,             \
        const OptionalTensor &key_position, const OptionalTensor &bias_offset,                   \
        const OptionalTensor &bias_row_stride, const OptionalTensor &reach,                      \
        int64_t /*max_group_size*/, int64_t /*max_key_group_size*/, const OptionalTensor &bias,  \
        const Tensor &scale, bool qk_norm, double dropout_p, const OptionalTensor &dropout_seed, \
        int64_t isa
#define UNITRANS_CALL_ARGUMENTS                                                                \
    q, k, v, cu_seqlens, token_index, position, key_cu_seqlens, key_token_index, key_position, \
        bias_offset, bias_row_stride, reach, bias, scale, qk_norm, dropout_p, dropout_seed, isa

std::tuple<Tensor, Tensor> run_forward(const Call& call, bool need_lse) {
    const Tensor& q = call.q;
    const auto& [rows_of_q, heads, dim] =
        std::tuple(call.problem.num_queries, call.problem.num_heads, call.problem.head_dim);
    Tensor out = torch::stable::new_empty(q, {rows_of_q, heads, dim});
    unitrans::ask_for_huge_pages(out);
    Tensor lse = torch::stable::new_empty(q, {need_lse ? rows_of_q : 0, heads}, accumulate_type(q));
    unitrans::attention_forward(call.problem, {rows(out), need_lse ? lse.data_ptr() : nullptr},
                                parallel, call.isa);
    return {out, lse};
}

std::tuple<Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             UNITRANS_CALL_PARAMETERS) {
    return run_forward(Call(UNITRANS_CALL_ARGUMENTS), true);
}

std::tuple<Tensor, Tensor> attention_forward_eager(const Tensor& q, const OptionalTensor& k,
                                                   const OptionalTensor& v,
                                                   UNITRANS_CALL_PARAMETERS, bool need_lse) {
    return run_forward(Call(UNITRANS_CALL_ARGUMENTS), need_lse);
}

// Into dq, dk, dv of any strides with unit stride in the last dimension, or into one tensor as the
// call has; returns d(bias), d(scale).
std::tuple<Tensor, Tensor> run_backward(const Tensor& grad_out_in,
                                        const OptionalTensor& grad_lse_in, const Call& call,
                                        const Tensor& dq, const OptionalTensor& dk,
                                        const OptionalTensor& dv, bool need_bias, bool need_scale) {
    const Tensor grad_out = unit_stride(grad_out_in);
    OptionalTensor grad_lse;
    if (grad_lse_in) grad_lse = torch::stable::contiguous(*grad_lse_in);
    const Tensor& scale = call.scale;
    need_bias = need_bias && call.bias;
    Tensor dbias =
        need_bias ? torch::stable::new_empty(*call.bias, {call.bias->size(0), call.bias->size(1)})
                  : torch::stable::new_empty(scale, {0});
    Tensor dscale = torch::stable::new_empty(scale, {need_scale ? scale.size(0) : 0});

    unitrans::ask_for_huge_pages(dq);
    unitrans::ask_for_huge_pages(dbias);
    unitrans::Gradients gradients;
    if (dk && dv) {
        unitrans::ask_for_huge_pages(*dk);
        unitrans::ask_for_huge_pages(*dv);
        gradients.dq = rows(dq), gradients.dk = rows(*dk), gradients.dv = rows(*dv);
    } else {
        gradients.dq = rows_inside(dq, 0);
        gradients.dk = rows_inside(dq, 1);
        gradients.dv = rows_inside(dq, 2);
    }
    if (need_bias) gradients.dbias = dbias.data_ptr();
    if (need_scale) gradients.dscale = dscale.data_ptr();
    unitrans::attention_backward(call.problem,
                                 {const_rows(grad_out), grad_lse ? grad_lse->data_ptr() : nullptr},
                                 gradients, parallel, call.isa);
    return {dbias, dscale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out, const OptionalTensor& grad_lse, const Tensor& q, const Tensor& k,
    const Tensor& v, UNITRANS_CALL_PARAMETERS, bool need_bias, bool need_scale) {
    const Call call(UNITRANS_CALL_ARGUMENTS);
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
    return run_backward(grad_out, grad_lse, Call(UNITRANS_CALL_ARGUMENTS), dq, dk, dv, need_bias,
                        need_scale);
}

int64_t cpu_isa() { return static_cast<int64_t>(unitrans::best_isa()); }

}  // namespace

// The plan, flat: sizes are SymInt, never int, so that a traced graph serves every batch.
#define UNITRANS_CALL_SCHEMA                                                                       \
    "Tensor cu_seqlens, Tensor? token_index, Tensor? position, "                                   \
    "Tensor? key_cu_seqlens, Tensor? key_token_index, Tensor? key_position, Tensor? bias_offset, " \
    "Tensor? bias_row_stride, Tensor? reach, SymInt max_group_size, SymInt max_key_group_size, "   \
    "Tensor? bias, Tensor scale, bool qk_norm, float dropout_p, Tensor? dropout_seed, int isa"

STABLE_TORCH_LIBRARY(unitrans, m) {
    m.def("attention_forward(Tensor q, Tensor k, Tensor v, " UNITRANS_CALL_SCHEMA
          ") -> (Tensor out, Tensor lse)");
    m.def(
        "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor "
        "v, " UNITRANS_CALL_SCHEMA
        ", bool need_bias, bool need_scale) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dbias, "
        "Tensor dscale)");
    // The same for callers with an autograd formula of their own (unitrans/ops/compiled.py): no lse
    // that is not wanted, gradients into tensors of the caller. Without k and v q holds all three,
    // [T, 3, N, D], and so does dq.
    m.def("attention_forward_eager(Tensor q, Tensor? k, Tensor? v, " UNITRANS_CALL_SCHEMA
          ", bool need_lse) -> (Tensor out, Tensor lse)");
    m.def(
        "attention_backward_into(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor? k, "
        "Tensor? v, " UNITRANS_CALL_SCHEMA
        ", Tensor(a!) dq, Tensor(b!)? dk, Tensor(c!)? dv, bool need_bias, bool need_scale) -> "
        "(Tensor dbias, Tensor dscale)");
    m.def("cpu_isa() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(unitrans, CPU, m) {
    m.impl("attention_forward", TORCH_BOX(&attention_forward));
    m.impl("attention_backward", TORCH_BOX(&attention_backward));
    m.impl("attention_forward_eager", TORCH_BOX(&attention_forward_eager));
    m.impl("attention_backward_into", TORCH_BOX(&attention_backward_into));
}

STABLE_TORCH_LIBRARY_IMPL(unitrans, CompositeExplicitAutograd, m) {
    m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
