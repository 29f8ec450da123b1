// What stands between the two linear layers of an MLP, in one pass over memory: the bias of the first
// and the exact GELU (Hendrycks and Gimpel 2016, section 2), and their gradients.
//
//     out = u Phi(u),    u = x + bias,    Phi(u) = (1 + erf(u / sqrt 2)) / 2
//     d(x) = d(out) (Phi(u) + u phi(u)),    d(bias) = sum of d(x) over rows
//
// Nothing is checked here. Results are bit-equal for any number of threads.
#pragma once

#include <cstdint>

#include "unitrans/attention.hpp"

namespace unitrans {

// Of float, or double when dtype is kFloat64 (no other is taken). fp32: the error is below 1e-6.
struct BiasGelu {
    DType dtype = DType::kFloat32;
    int64_t num_rows = 0;
    int64_t num_columns = 0;
    const void* x = nullptr;     // [num_rows, num_columns]
    const void* bias = nullptr;  // [num_columns]
};

// out: as x, and may be x itself.
void bias_gelu_forward(const BiasGelu& problem, void* out, const Parallel& parallel, Isa isa);

// dx: as x, and may be grad_out itself. dbias: [num_columns]. Sums over rows end in fp64.
void bias_gelu_backward(const BiasGelu& problem, const void* grad_out, void* dx, void* dbias,
                        const Parallel& parallel, Isa isa);

}  // namespace unitrans
