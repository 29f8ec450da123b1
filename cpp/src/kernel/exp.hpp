// The exponential function on vectors.
#pragma once

#include "simd.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 (c2 + c3 r +
// ...).
template <class E>
struct ExpConstants;

template <>
struct ExpConstants<float> {
    static constexpr float kRound = 0x1.8p23f;     // adding it leaves an integer in the low bits
    static constexpr float kLn2High = 0x1.63p-1f;  // few bits: n * kLn2High is exact
    static constexpr float kLn2Low = -2.12194440e-4f;
    static constexpr float kLowest = -87.0f;  // below it results would be subnormal: 0 instead
    static constexpr uint32_t kExponentBias = 127;
    static constexpr int kMantissaBits = 23;
    // Minimax of the relative error with c0 = c1 = 1: 3.1e-9 before rounding.
    static constexpr float kPolynomial[] = {0x1.6a23cep-10f, 0x1.123a20p-7f, 0x1.5558f2p-5f,
                                            0x1.555492p-3f, 0x1.fffffcp-2f};
};

template <>
struct ExpConstants<double> {
    static constexpr double kRound = 0x1.8p52;
    static constexpr double kLn2High = 0x1.62e42feep-1;
    static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
    static constexpr double kLowest = -708.0;
    static constexpr uint64_t kExponentBias = 1023;
    static constexpr int kMantissaBits = 52;
    // The series itself: the first term left out is below 5e-18.
    static constexpr double kPolynomial[] = {
        1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
        1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
};

// exp(x) for x <= 0 within 2 ulp; exp(0) is 1 exactly, exp(-inf) is 0, NaN stays NaN.
template <class E>
inline Vec<E> exp_nonpositive(Vec<E> x) {
    using C = ExpConstants<E>;
    const Vec<E> clamped = x < C::kLowest ? broadcast<E>(C::kLowest) : x;
    const Vec<E> shifted = clamped * static_cast<E>(1.4426950408889634) + C::kRound;
    const Vec<E> n = shifted - C::kRound;
    const Vec<E> r = (clamped - n * C::kLn2High) - n * C::kLn2Low;
    Vec<E> p = broadcast<E>(C::kPolynomial[0]);
#pragma GCC unroll 12
    for (unsigned i = 1; i < sizeof(C::kPolynomial) / sizeof(E); ++i) p = p * r + C::kPolynomial[i];
    p = (p * r) * r + r + 1;
    const BitsVec<E> exponent = bit_cast<BitsVec<E>>(shifted) + C::kExponentBias;
    const Vec<E> power = bit_cast<Vec<E>>(exponent << C::kMantissaBits);
    return x < C::kLowest ? Vec<E>{} : p * power;
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
