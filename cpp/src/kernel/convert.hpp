// Reading and writing rows of any storage type T as vectors of the element type E.
#pragma once

#include "../storage.hpp"
#include "simd.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

using FloatVec = Vec<float>;
using FloatBits = BitsVec<float>;
// As many 16-bit values as a FloatVec has lanes.
using HalfBits = Lanes<uint16_t, kLanes<float>>::type;

inline FloatVec widen(HalfBits bits, BFloat16) {
    return bit_cast<FloatVec>(__builtin_convertvector(bits, FloatBits) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline HalfBits narrow(FloatVec value, BFloat16) {
    const FloatBits bits = bit_cast<FloatBits>(value);
    const FloatBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const FloatBits quiet_nan = (bits >> 16) | 0x40;
    return __builtin_convertvector(value == value ? rounded : quiet_nan, HalfBits);
}

#if defined(__AVX512F__) && UNITRANS_VECTOR_BYTES == 64
inline FloatVec widen(HalfBits bits, Float16) {
    // Masked with all lanes: the plain intrinsics make GCC 12 warn about its own header.
    return bit_cast<FloatVec>(_mm512_maskz_cvtph_ps(0xffff, bit_cast<__m256i>(bits)));
}
inline HalfBits narrow(FloatVec value, Float16) {
    return bit_cast<HalfBits>(_mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(value),
                                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__) && UNITRANS_VECTOR_BYTES == 32
inline FloatVec widen(HalfBits bits, Float16) {
    return bit_cast<FloatVec>(_mm256_cvtph_ps(bit_cast<__m128i>(bits)));
}
inline HalfBits narrow(FloatVec value, Float16) {
    return bit_cast<HalfBits>(
        _mm256_cvtps_ph(bit_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
inline FloatVec widen(HalfBits half, Float16) {
    const FloatBits bits = __builtin_convertvector(half, FloatBits);
    const FloatBits magnitude = (bits & 0x7fff) << 13;
    const FloatBits exponent = magnitude & 0x0f800000;
    const FloatBits normal = magnitude + ((127 - 15) << 23);
    const FloatBits infinite_or_nan = magnitude + ((255 - 31) << 23);
    // A subnormal half is m * 2^-24 = (2^-14 + m * 2^-24) - 2^-14, and a float holds the sum
    // exactly.
    const FloatBits one_up = magnitude + ((127 - 14) << 23);
    const FloatBits subnormal = bit_cast<FloatBits>(bit_cast<FloatVec>(one_up) - 0x1p-14f);
    const FloatBits result =
        exponent == 0 ? subnormal : (exponent == 0x0f800000 ? infinite_or_nan : normal);
    return bit_cast<FloatVec>(result | ((bits & 0x8000) << 16));
}
inline HalfBits narrow(FloatVec value, Float16) {
    const FloatBits bits = bit_cast<FloatBits>(value);
    const FloatBits sign = (bits >> 16) & 0x8000;
    const FloatBits magnitude = bits & 0x7fffffff;
    const FloatBits odd = (magnitude >> 13) & 1;
    const FloatBits normal = (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13;
    // Below 2^-14 one unit of the result is 2^-24: adding .5 leaves that many units in the
    // mantissa, rounded.
    const FloatVec shifted = bit_cast<FloatVec>(magnitude) + 0.5f;
    const FloatBits subnormal = bit_cast<FloatBits>(shifted) - 0x3f000000;
    FloatBits result = magnitude < ((127 - 14) << 23) ? subnormal : normal;
    result = magnitude >= ((127 + 16) << 23) ? result * 0 + 0x7c00 : result;
    result = value == value ? result : ((magnitude >> 13) & 0x3ff) | 0x7e00;
    return __builtin_convertvector(result | sign, HalfBits);
}
#endif

// The first n lanes of a vector of U from memory, zeros in the others; nothing is read beyond them.
template <class V, class U>
inline V load_first(const U* p, Index n) {
#if defined(__AVX512F__) && UNITRANS_VECTOR_BYTES == 64
    const uint32_t mask = (1u << n) - 1;
    if constexpr (sizeof(V) == 32) {
        return bit_cast<V>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p));
    } else if constexpr (sizeof(U) == 4) {
        return bit_cast<V>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p));
    } else {
        return bit_cast<V>(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), p));
    }
#else
    V v{};
    for (Index i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
}
template <class V, class U>
inline void store_first(U* p, V v, Index n) {
#if defined(__AVX512F__) && UNITRANS_VECTOR_BYTES == 64
    const uint32_t mask = (1u << n) - 1;
    if constexpr (sizeof(V) == 32) {
        _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(mask), bit_cast<__m256i>(v));
    } else if constexpr (sizeof(U) == 4) {
        _mm512_mask_storeu_epi32(p, static_cast<__mmask16>(mask), bit_cast<__m512i>(v));
    } else {
        _mm512_mask_storeu_epi64(p, static_cast<__mmask8>(mask), bit_cast<__m512i>(v));
    }
#else
    for (Index i = 0; i < n; ++i) p[i] = v[i];
#endif
}

template <class E>
inline Vec<E> load(const E* p) {
    return load_lanes<Vec<E>>(p);
}
template <class E>
inline void store(E* p, Vec<E> v) {
    store_lanes(p, v);
}

// Lanes p[0] .. p[n - 1] of any storage type, 0 < n <= kLanes, as a vector of E with zeros behind
// them.
template <class E, class T>
inline Vec<E> load_as(const T* p, Index n) {
    const bool all = n == kLanes<E>;
    if constexpr (sizeof(T) == sizeof(E)) {
        return all ? load(p) : load_first<Vec<E>>(p, n);
    } else {
        const uint16_t* bits = &p->bits;
        return widen(all ? load_lanes<HalfBits>(bits) : load_first<HalfBits>(bits, n), T{});
    }
}
template <class E, class T>
inline void store_as(T* p, Vec<E> v, Index n) {
    const bool all = n == kLanes<E>;
    if constexpr (sizeof(T) == sizeof(E)) {
        all ? store(p, v) : store_first(p, v, n);
    } else {
        uint16_t* bits = &p->bits;
        all ? store_lanes(bits, narrow(v, T{})) : store_first(bits, narrow(v, T{}), n);
    }
}

// Calls body(first, lanes) for 0 .. count in whole vectors and, at the end, what remains.
template <class E, class Body>
[[gnu::always_inline]] inline void for_vectors(Index count, Body&& body) {
    constexpr Index n = kLanes<E>;
    Index first = 0;
    for (; first + n <= count; first += n) body(first, n);
    if (first < count) body(first, count - first);
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
