// The exponential function on vectors, to base 2.
#pragma once

#include "simd.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// 2^x = 2^n 2^f, n = round(x), |f| <= 1/2, 2^f = 1 + f (c1 + c2 f + ...).
template <class E>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
    static constexpr float kLog2E = 0x1.715476p+0f;
    static constexpr float kRound = 0x1.8p23f;  // adding it leaves an integer in the low bits
    static constexpr float kLowest = -126.0f;   // below it results would be subnormal: 0 instead
    static constexpr uint32_t kExponentBias = 127;
    static constexpr int kMantissaBits = 23;
    // Minimax of the relative error: 1.6e-8 before rounding.
    static constexpr float kPolynomial[] = {0x1.41fbbcp-13f, 0x1.5f3e52p-10f, 0x1.3b2d4cp-7f,
                                            0x1.c6aee8p-5f,  0x1.ebfbdcp-3f,  0x1.62e430p-1f};
};

template <>
struct Exp2Constants<double> {
    static constexpr double kLog2E = 0x1.71547652b82fep+0;
    static constexpr double kRound = 0x1.8p52;
    static constexpr double kLowest = -1022.0;
    static constexpr uint64_t kExponentBias = 1023;
    static constexpr int kMantissaBits = 52;
    // The series itself, (log 2)^k / k!: the first term left out is below 5e-18.
    static constexpr double kPolynomial[] = {
        0x1.816193166d0f9p-40, 0x1.c3bd650fc2986p-36, 0x1.e8cac7351bb25p-32, 0x1.e4cf5158b8ecap-28,
        0x1.b5253d395e7c4p-24, 0x1.62c0223a5c824p-20, 0x1.ffcbfc588b0c7p-17, 0x1.430912f86c787p-13,
        0x1.5d87fe78a6731p-10, 0x1.3b2ab6fba4e77p-7,  0x1.c6b08d704a0cp-5,   0x1.ebfbdff82c58fp-3,
        0x1.62e42fefa39efp-1};
};

// 2^x for x <= 0 within 2 ulp; 2^0 is 1 exactly, 2^-inf is 0, NaN stays NaN.
template <class E>
[[gnu::always_inline]] inline Vec<E> exp2_nonpositive(Vec<E> x) {
    using C = Exp2Constants<E>;
    const Vec<E> shifted = x + C::kRound;
    const Vec<E> f = x - (shifted - C::kRound);
    Vec<E> p = broadcast<E>(C::kPolynomial[0]);
#pragma GCC unroll 16
    for (unsigned i = 1; i < sizeof(C::kPolynomial) / sizeof(E); ++i) p = p * f + C::kPolynomial[i];
    p = p * f + 1;
    const BitsVec<E> exponent = bit_cast<BitsVec<E>>(shifted) << C::kMantissaBits;
    const BitsVec<E> one = BitsVec<E>{} + (C::kExponentBias << C::kMantissaBits);
    const Vec<E> power = bit_cast<Vec<E>>(exponent + one);
    return x < C::kLowest ? Vec<E>{} : p * power;
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
