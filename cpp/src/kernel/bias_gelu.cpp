// Bias and GELU on some rows, compiled once per instruction set like the attention kernels.
#include "../bias_gelu_kernels.hpp"
#include "convert.hpp"
#include "exp.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {
namespace {

constexpr double kSqrtHalf = 0.70710678118654752440, kInverseSqrtTwoPi = 0.39894228040143267794;

// Phi(u), and exp(-u^2 / 2) on the way.
template <class E>
struct Normal {
    Vec<E> cdf, exp;
};

// Abramowitz and Stegun 7.1.26: 1 - erf(a) = t (a1 + a2 t + ...) exp(-a^2) for a >= 0, t = 1 / (1 + p a),
// with an error below 1.5e-7.
[[gnu::always_inline]] inline Normal<float> normal(Vec<float> u) {
    constexpr float p = static_cast<float>(0.3275911 * kSqrtHalf);
    constexpr float half_log2e = static_cast<float>(0.72134752044448170368);
    const Vec<float> a = bit_cast<Vec<float>>(bit_cast<BitsVec<float>>(u) & 0x7fffffffu);
    const Vec<float> t = 1 / (1 + a * p);
    Vec<float> polynomial = t * 1.061405429f - 1.453152027f;
    polynomial = polynomial * t + 1.421413741f;
    polynomial = polynomial * t - 0.284496736f;
    polynomial = polynomial * t + 0.254829592f;
    const Vec<float> e = exp2_nonpositive<float>(-(u * u) * half_log2e);
    const Vec<float> tail = polynomial * t * e * 0.5f;
    return {u < 0 ? tail : 1 - tail, e};
}

[[gnu::always_inline]] inline Normal<double> normal(Vec<double> u) {
    Normal<double> result;
    for (int i = 0; i < kLanes<double>; ++i) {
        result.cdf[i] = 0.5 * __builtin_erfc(-u[i] * kSqrtHalf);
        result.exp[i] = __builtin_exp(-0.5 * u[i] * u[i]);
    }
    return result;
}

template <class E>
void forward_rows(Index rows, Index columns, const E* x, const E* bias, E* out) {
    for (Index r = 0; r < rows; ++r) {
        for_vectors<E>(columns, [&](Index c, Index lanes) {
            const Index i = r * columns + c;
            const Vec<E> u = load_as<E>(x + i, lanes) + load_as<E>(bias + c, lanes);
            store_as<E>(out + i, u * normal(u).cdf, lanes);
        });
    }
}

// Adds to dbias.
template <class E>
void backward_rows(Index rows, Index columns, const E* x, const E* bias, const E* grad_out, E* dx,
                   E* dbias) {
    constexpr E kDensity = static_cast<E>(kInverseSqrtTwoPi);
    for (Index r = 0; r < rows; ++r) {
        for_vectors<E>(columns, [&](Index c, Index lanes) {
            const Index i = r * columns + c;
            const Vec<E> u = load_as<E>(x + i, lanes) + load_as<E>(bias + c, lanes);
            const Normal<E> at = normal(u);
            const Vec<E> d = load_as<E>(grad_out + i, lanes) * (at.cdf + u * at.exp * kDensity);
            store_as<E>(dx + i, d, lanes);
            store_as<E>(dbias + c, load_as<E>(dbias + c, lanes) + d, lanes);
        });
    }
}

}  // namespace

extern const BiasGeluKernels bias_gelu_kernels;
const BiasGeluKernels bias_gelu_kernels{forward_rows<float>, forward_rows<double>,
                                        backward_rows<float>, backward_rows<double>};

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
