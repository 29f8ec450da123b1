// Vectors of the width of this build (16, 32 or 64 bytes), written with the vector extensions of
// GCC and Clang: operators work lane by lane, a scalar operand is spread over all lanes.
//
// Every header of this folder is compiled once per instruction set, each time in a namespace of its
// own. To keep the linker from merging code made for different processors they call no inline
// function of the standard library.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef UNITRANS_ISA_NAMESPACE
#error "define UNITRANS_ISA_NAMESPACE and UNITRANS_VECTOR_BYTES for each instruction set"
#endif

namespace unitrans::UNITRANS_ISA_NAMESPACE {

using Index = int64_t;

inline constexpr int kVectorBytes = UNITRANS_VECTOR_BYTES;

// Lanes in a vector of element type E (float or double).
template <class E>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(E));

// A vector of n values of type E.
template <class E, int n>
struct Lanes {
    typedef E type __attribute__((vector_size(n * sizeof(E))));
};
template <class E>
using Vec = typename Lanes<E, kLanes<E>>::type;

// The unsigned integer as wide as E.
template <int bytes>
struct UnsignedOf;
template <>
struct UnsignedOf<2> {
    using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
    using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
    using type = uint64_t;
};
template <class E>
using Bits = typename UnsignedOf<sizeof(E)>::type;
template <class E>
using BitsVec = typename Lanes<Bits<E>, kLanes<E>>::type;

template <class I>
inline I minimum(I a, I b) {
    return a < b ? a : b;
}
template <class I>
inline I maximum(I a, I b) {
    return a > b ? a : b;
}
inline Index round_up(Index n, Index step) { return (n + step - 1) / step * step; }

template <class E>
inline constexpr E kInfinity = static_cast<E>(__builtin_inf());

// The same bits as another vector type.
template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return reinterpret_cast<To>(from);
}

template <class V, class E>
inline V load_lanes(const E* p) {  // no alignment needed beyond that of E
    V v;
    __builtin_memcpy(&v, p, sizeof(V));
    return v;
}
template <class V, class E>
inline void store_lanes(E* p, V v) {
    __builtin_memcpy(p, &v, sizeof(V));
}

template <class E>
inline Vec<E> broadcast(E value) {
    return value - Vec<E>{};
}

// 0, 1, 2, ... in the integer lanes that match E.
template <class E>
inline BitsVec<E> lane_numbers() {
    BitsVec<E> v;
    for (int i = 0; i < kLanes<E>; ++i) v[i] = static_cast<Bits<E>>(i);
    return v;
}

// All bits set in the lanes below n, none in the others.
template <class E>
inline BitsVec<E> lanes_below(Index n) {
    const Index clamped = minimum<Index>(maximum<Index>(n, 0), kLanes<E>);
    return bit_cast<BitsVec<E>>(lane_numbers<E>() < static_cast<Bits<E>>(clamped));
}

template <class E>
inline Vec<E> select(BitsVec<E> mask, Vec<E> yes, Vec<E> no) {
    return mask ? yes : no;
}

// The larger lane of each pair; where `value` is NaN the lane of `bound`, so a running maximum
// skips NaN.
template <class V>
inline V max_skipping_nan(V value, V bound) {
    return value > bound ? value : bound;
}

// Folds all lanes into one by halves: the order of the additions is part of the result.
template <class E, int n, class Op>
inline E fold(typename Lanes<E, n>::type v, Op op) {
    if constexpr (n == 2) {
        return op(v[0], v[1]);
    } else {
        using Half = typename Lanes<E, n / 2>::type;
        Half halves[2];
        __builtin_memcpy(halves, &v, sizeof(v));
        return fold<E, n / 2>(op(halves[0], halves[1]), op);
    }
}
template <class E>
inline E reduce_add(Vec<E> v) {
    return fold<E, kLanes<E>>(v, [](auto a, auto b) { return a + b; });
}
template <class E>
inline E reduce_max(Vec<E> v) {  // v without NaN
    return fold<E, kLanes<E>>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// Lane pairs (a0, b0, a1, b1, ...) of the lower (`part` 0) or the upper half (`part` 1) of two
// vectors.
template <int... lanes>
struct LaneList {};
template <int n, int... lanes>
struct CountTo : CountTo<n - 1, n - 1, lanes...> {};
template <int... lanes>
struct CountTo<0, lanes...> {
    using type = LaneList<lanes...>;
};

template <class E, int part, int... lanes>
inline Vec<E> zip(Vec<E> a, Vec<E> b, LaneList<lanes...>) {
    constexpr int n = kLanes<E>;
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, ((lanes + part * n) / 2 + (lanes % 2) * n)...);
#else
    return __builtin_shuffle(
        a, b, BitsVec<E>{static_cast<Bits<E>>((lanes + part * n) / 2 + (lanes % 2) * n)...});
#endif
}

// Transposes a square of kLanes vectors: log2(kLanes) rounds of a perfect shuffle of all its
// elements.
template <class E>
inline void transpose(Vec<E> (&rows)[kLanes<E>]) {
    constexpr int n = kLanes<E>;
    using List = typename CountTo<n>::type;
#pragma GCC unroll 4
    for (int round = 1; round < n; round *= 2) {
        Vec<E> next[n];
#pragma GCC unroll 8
        for (int i = 0; i < n / 2; ++i) {
            next[2 * i] = zip<E, 0>(rows[i], rows[i + n / 2], List{});
            next[2 * i + 1] = zip<E, 1>(rows[i], rows[i + n / 2], List{});
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) rows[i] = next[i];
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
