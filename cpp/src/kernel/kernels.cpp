// All kernels of one instruction set. This file is compiled once per set, with
// UNITRANS_ISA_NAMESPACE and UNITRANS_VECTOR_BYTES to match the compiler flags.
#include "../kernels.hpp"

#include "backward.hpp"
#include "forward.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {
namespace {

// Calls body<storage type, element type>().
template <class Body>
void with_types(DType dtype, Body&& body) {
    switch (dtype) {
        case DType::kFloat32:
            body.template operator()<float, float>();
            break;
        case DType::kBFloat16:
            body.template operator()<BFloat16, float>();
            break;
        case DType::kFloat16:
            body.template operator()<Float16, float>();
            break;
        case DType::kFloat64:
            body.template operator()<double, double>();
            break;
    }
}

void forward(const Problem& problem, const ForwardOutputs& outputs, const Task& task) {
    with_types(problem.dtype,
               [&]<class T, class E>() { forward_task<T, E>(problem, outputs, task); });
}

void backward(const Problem& problem, const BackwardInputs& inputs, const Gradients& gradients,
              const BackwardTask& task) {
    with_types(problem.dtype,
               [&]<class T, class E>() { backward_task<T, E>(problem, inputs, gradients, task); });
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels{forward, backward};

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
