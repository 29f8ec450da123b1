// The torch operators, through torch's stable ABI: schema, and the launcher that turns tensors into pointers.
//
// The shapes for tracing and the gradient formula are registered once in Python (unitrans/ops/compiled.py).

#include "attention_call.hpp"
#include "huge_pages.hpp"

namespace {

using namespace unitrans::bindings;

// torch's own thread pool: an extension with a pool of its own would oversubscribe the machine.
void parallel(int64_t num_tasks, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) body(task);
    });
}

// A call with what the CPU reads of it on the spot.
struct CpuCall : Call {
    unitrans::Isa isa;

    CpuCall(Call&& call, const OptionalTensor& dropout_seed, int64_t isa_in)
        : Call(std::move(call)),
          isa(isa_in < 0 ? unitrans::best_isa() : static_cast<unitrans::Isa>(isa_in)) {
        if (isa > unitrans::best_isa())
            refuse("isa: this processor cannot run that instruction set");
        const std::string fault = unitrans::plan_fault(problem);
        if (!fault.empty()) refuse(fault);
        if (dropout_seed) {
            problem.dropout_seed =
                static_cast<uint64_t>(*static_cast<const int64_t*>(dropout_seed->data_ptr()));
        }
    }
};

std::tuple<Tensor, Tensor> run_forward(const CpuCall& call, bool need_lse) {
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
    return run_forward(CpuCall({UNITRANS_CALL_ARGUMENTS}, dropout_seed, isa), true);
}

std::tuple<Tensor, Tensor> attention_forward_eager(const Tensor& q, const OptionalTensor& k,
                                                   const OptionalTensor& v,
                                                   UNITRANS_CALL_PARAMETERS, bool need_lse) {
    return run_forward(CpuCall({UNITRANS_CALL_ARGUMENTS}, dropout_seed, isa), need_lse);
}

std::tuple<Tensor, Tensor> run_backward(const Tensor& grad_out, const OptionalTensor& grad_lse,
                                        const CpuCall& call, const Tensor& dq,
                                        const OptionalTensor& dk, const OptionalTensor& dv,
                                        bool need_bias, bool need_scale) {
    const GradientCall g(call, grad_out, grad_lse, dq, dk, dv, need_bias, need_scale);
    unitrans::ask_for_huge_pages(dq);
    unitrans::ask_for_huge_pages(g.dbias);
    if (dk) unitrans::ask_for_huge_pages(*dk);
    if (dv) unitrans::ask_for_huge_pages(*dv);
    unitrans::attention_backward(call.problem, g.inputs(), g.gradients, parallel, call.isa);
    return {g.dbias, g.dscale};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out, const OptionalTensor& grad_lse, const Tensor& q, const Tensor& k,
    const Tensor& v, UNITRANS_CALL_PARAMETERS, bool need_bias, bool need_scale) {
    const CpuCall call({UNITRANS_CALL_ARGUMENTS}, dropout_seed, isa);
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
    return run_backward(grad_out, grad_lse, CpuCall({UNITRANS_CALL_ARGUMENTS}, dropout_seed, isa),
                        dq, dk, dv, need_bias, need_scale);
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
