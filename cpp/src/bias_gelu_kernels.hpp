// The bias and GELU kernels of every instruction set, behind one table.
#pragma once

#include <cstdint>

#include "unitrans/attention.hpp"

namespace unitrans {

// rows, columns, x, bias, out; rows, columns, x, bias, grad_out, dx, dbias (added to).
template <class E>
using BiasGeluForward = void (*)(int64_t, int64_t, const E*, const E*, E*);
template <class E>
using BiasGeluBackward = void (*)(int64_t, int64_t, const E*, const E*, const E*, E*, E*);

struct BiasGeluKernels {
    BiasGeluForward<float> forward_float;
    BiasGeluForward<double> forward_double;
    BiasGeluBackward<float> backward_float;
    BiasGeluBackward<double> backward_double;

    void forward(int64_t rows, int64_t columns, const float* x, const float* b, float* out) const {
        forward_float(rows, columns, x, b, out);
    }
    void forward(int64_t rows, int64_t columns, const double* x, const double* b,
                 double* out) const {
        forward_double(rows, columns, x, b, out);
    }
    void backward(int64_t rows, int64_t columns, const float* x, const float* b, const float* g,
                  float* dx, float* dbias) const {
        backward_float(rows, columns, x, b, g, dx, dbias);
    }
    void backward(int64_t rows, int64_t columns, const double* x, const double* b, const double* g,
                  double* dx, double* dbias) const {
        backward_double(rows, columns, x, b, g, dx, dbias);
    }
};

// The kernels of a level, null if this build has none.
const BiasGeluKernels* find_bias_gelu_kernels(Isa isa);

}  // namespace unitrans
