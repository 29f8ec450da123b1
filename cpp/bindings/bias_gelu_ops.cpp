// The torch operators of bias and GELU; shapes for tracing and the gradient formula are in unitrans/ops/bias_gelu.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

#include "huge_pages.hpp"
#include "unitrans/bias_gelu.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Of contiguous tensors.
unitrans::BiasGelu problem_of(const Tensor& x, const Tensor& bias) {
    STD_TORCH_CHECK(x.scalar_type() == bias.scalar_type() && x.dim() == 2 && bias.dim() == 1 &&
                        x.size(1) == bias.size(0),
                    "unitrans: bias_gelu takes x [rows, columns] and bias [columns] of one dtype");
    const bool wide = x.scalar_type() == ScalarType::Double;
    STD_TORCH_CHECK(wide || x.scalar_type() == ScalarType::Float,
                    "unitrans: bias_gelu takes float32 or float64");
    return {wide ? unitrans::DType::kFloat64 : unitrans::DType::kFloat32, x.size(0), x.size(1),
            x.data_ptr(), bias.data_ptr()};
}

void parallel(int64_t num_tasks, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) body(task);
    });
}

Tensor bias_gelu(const Tensor& x_in, const Tensor& bias_in) {
    const Tensor x = torch::stable::contiguous(x_in), bias = torch::stable::contiguous(bias_in);
    const unitrans::BiasGelu problem = problem_of(x, bias);
    Tensor out = torch::stable::new_empty(x, {problem.num_rows, problem.num_columns});
    unitrans::ask_for_huge_pages(out);
    unitrans::bias_gelu_forward(problem, out.data_ptr(), parallel, unitrans::best_isa());
    return out;
}

void bias_gelu_into(const Tensor& x, const Tensor& bias_in) {
    STD_TORCH_CHECK(x.is_contiguous(), "unitrans: bias_gelu_ takes a contiguous x");
    const Tensor bias = torch::stable::contiguous(bias_in);
    unitrans::bias_gelu_forward(problem_of(x, bias), x.data_ptr(), parallel, unitrans::best_isa());
}

std::tuple<Tensor, Tensor> bias_gelu_backward(const Tensor& grad_in, const Tensor& x_in,
                                              const Tensor& bias_in) {
    const Tensor x = torch::stable::contiguous(x_in), bias = torch::stable::contiguous(bias_in);
    const Tensor grad = torch::stable::contiguous(grad_in);
    const unitrans::BiasGelu problem = problem_of(x, bias);
    Tensor dx = torch::stable::new_empty(x, {problem.num_rows, problem.num_columns});
    unitrans::ask_for_huge_pages(dx);
    Tensor dbias = torch::stable::new_empty(bias, {problem.num_columns});
    unitrans::bias_gelu_backward(problem, grad.data_ptr(), dx.data_ptr(), dbias.data_ptr(),
                                 parallel, unitrans::best_isa());
    return {dx, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(unitrans, m) {
    m.def("bias_gelu(Tensor x, Tensor bias) -> Tensor");
    m.def("bias_gelu_(Tensor(a!) x, Tensor bias) -> ()");
    m.def("bias_gelu_backward(Tensor grad, Tensor x, Tensor bias) -> (Tensor dx, Tensor dbias)");
}

STABLE_TORCH_LIBRARY_IMPL(unitrans, CPU, m) {
    m.impl("bias_gelu", TORCH_BOX(&bias_gelu));
    m.impl("bias_gelu_", TORCH_BOX(&bias_gelu_into));
    m.impl("bias_gelu_backward", TORCH_BOX(&bias_gelu_backward));
}
