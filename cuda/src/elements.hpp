// Element types of q, k, v, and what the same source needs from the two compilers that read it: nvcc for the
// kernels, any C++ compiler for their emulation on the host (cuda/tests).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define UNITRANS_DEVICE __device__ __forceinline__
#define UNITRANS_HOST_DEVICE __host__ __device__ __forceinline__
#define UNITRANS_UNROLL _Pragma("unroll")
#define UNITRANS_ROLL _Pragma("unroll 1")
#else
#define UNITRANS_DEVICE inline
#define UNITRANS_HOST_DEVICE inline
#define UNITRANS_UNROLL
#define UNITRANS_ROLL
#endif

namespace unitrans::cuda {

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

template <class T>
inline constexpr bool kIsHalf = sizeof(T) == 2;

// A fixed number of values of one thread. Indices must be known when the loop is unrolled: then they are registers.
template <class T, int n>
struct Values {
    T x[n];
    UNITRANS_DEVICE T& operator[](int i) { return x[i]; }
    UNITRANS_DEVICE const T& operator[](int i) const { return x[i]; }
};

UNITRANS_DEVICE float to_float(float x) { return x; }

UNITRANS_DEVICE float to_float(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

#if defined(__CUDACC__)

UNITRANS_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }
template <class T>
UNITRANS_DEVICE T from_float(float x) {
    if constexpr (sizeof(T) == 4) {
        return x;
    } else if constexpr (__is_same(T, BFloat16)) {
        return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
    } else {
        return {__half_as_ushort(__float2half_rn(x))};
    }
}
// The argument is never above 0 by more than rounding. Tensor core types take the fast one: its error is far below
// that of rounding a weight to 16 bits.
template <class T>
UNITRANS_DEVICE float exponential(float x) {
    return kIsHalf<T> ? __expf(x) : expf(x);
}

#else

inline float to_float(Float16 x) {
    const int e = (x.bits >> 10) & 31, m = x.bits & 1023;
    float f = e == 0 ? std::ldexp(float(m), -24) : std::ldexp(float(1024 + m), e - 25);
    if (e == 31) f = m ? NAN : INFINITY;
    return x.bits & 0x8000 ? -f : f;
}

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline BFloat16 from_float<BFloat16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (std::isnan(x)) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
inline Float16 from_float<Float16>(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return {0x7fff};
    const float a = std::fabs(x);
    if (a >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
    const int e = a < 0x1p-14f ? -14 : std::ilogb(a);
    const int units =
        static_cast<int>(std::nearbyint(std::ldexp(a, 10 - e)));  // carries into the exponent
    const int bits = units < 1024 ? units : ((e + 15) << 10) + units - 1024;
    return {static_cast<uint16_t>(sign | bits)};
}
template <class T>
inline float exponential(float x) {
    return std::exp(x);
}

#endif

}  // namespace unitrans::cuda
