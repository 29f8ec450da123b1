// What the products read: rows and panels of the element type, or of pairs of bf16 values where the
// processor sums two products at a time (AVX512-BF16) - of what was bf16 in the first place.
#pragma once

#include "pack.hpp"
#include "tiles.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// Keys in panels: sums over their values, with a vector of keys at a time. A lone key behind the last
// whole vector (49 = 3 * 16 + 1) stays a row: its dot products cost a third of a vector of keys.
template <class X>
struct KeyPanels {
    X* panels;
    X* lone;
};
template <class E>
inline Index lone_keys(Index num_keys) {
    return num_keys > kLanes<E> && num_keys % kLanes<E> == 1 ? 1 : 0;
}

// Storage type T, element type E: operands are elements.
template <class T, class E>
struct Operands {
    using X = E;
    static constexpr bool kPairs = false;

    static Index depth(Index n) { return n; }  // of a sum over n values
    static Index row(Width<E> width) { return width.padded; }

    // Rows of A: a sum runs along a row.
    static void rows(HeadRows<const T> source, RowList list, Index begin, Index count,
                     Width<E> width, X* target) {
        gather_rows<E>(source, list, begin, count, width, target);
    }
    // Rows of B: a sum runs along the list.
    static void across(HeadRows<const T> source, RowList list, Index begin, Index count,
                       Width<E> width, X* target) {
        gather_rows<E>(source, list, begin, count, width, target);
    }
    // Panels of B: a sum runs along a row, a vector has a row of the list in every lane.
    static void panels(HeadRows<const T> source, RowList list, Index count, Width<E> width,
                       E factor, KeyPanels<X> target) {
        const Index lone = lone_keys<E>(count);
        gather_panels<E>(source, list, count - lone, width, factor, target.panels);
        if (lone == 0) return;
        gather_rows<E>(source, list, count - 1, 1, width, target.lone);
        for (Index c = 0; c < width.padded; c += kLanes<E>) {
            store(target.lone + c, load(target.lone + c) * factor);
        }
    }
};

#if defined(__AVX512BF16__) && UNITRANS_VECTOR_BYTES == 64
#define UNITRANS_BF16_PAIRS

using PairVec = BitsVec<float>;  // 16 pairs; the first value of a pair is in the low half

template <>
struct Operand<float, uint32_t> {
    using Vector = PairVec;
    static constexpr bool kScaled = false;
    [[gnu::always_inline]] static void add_product(Vec<float>& sum, PairVec left, PairVec right) {
        sum = bit_cast<Vec<float>>(_mm512_dpbf16_ps(bit_cast<__m512>(sum), bit_cast<__m512bh>(left),
                                                    bit_cast<__m512bh>(right)));
    }
};

// Values p[0] .. p[n - 1] as pairs, zeros behind them.
inline PairVec load_pairs(const BFloat16* p, Index n) {
    if (n >= 32) return load_lanes<PairVec>(p);
    return bit_cast<PairVec>(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
}

inline PairVec widen_bits(const BFloat16* p, Index lanes) {
    const uint16_t* bits = &p->bits;
    return __builtin_convertvector(
        lanes == 16 ? load_lanes<HalfBits>(bits) : load_first<HalfBits>(bits, lanes), PairVec);
}

// 16 values rounded to bf16; subnormal ones become 0.
inline HalfBits round_to_bf16(Vec<float> v) {
    return bit_cast<HalfBits>(_mm512_cvtneps_pbh(bit_cast<__m512>(v)));
}

template <>
struct Operands<BFloat16, float> {
    using X = uint32_t;
    static constexpr bool kPairs = true;

    static Index depth(Index n) { return (n + 1) / 2; }
    static Index row(Width<float> width) { return round_up(depth(width.dim), 16); }

    static void rows(HeadRows<const BFloat16> source, RowList list, Index begin, Index count,
                     Width<float> width, X* target) {
        const Index stride = row(width);
        for (Index i = 0; i < count; ++i) {
            const BFloat16* from = source[list[begin + i]];
            for (Index c = 0; c < width.dim; c += 32) {
                store_lanes(target + i * stride + c / 2, load_pairs(from + c, width.dim - c));
            }
        }
    }

    static void across(HeadRows<const BFloat16> source, RowList list, Index begin, Index count,
                       Width<float> width, X* target) {
        for (Index i = 0; i < count; i += 2, target += width.padded) {
            const BFloat16* low = source[list[begin + i]];
            const BFloat16* high = i + 1 < count ? source[list[begin + i + 1]] : nullptr;
            for_vectors<float>(width.dim, [&](Index c, Index lanes) {
                PairVec pairs = widen_bits(low + c, lanes);
                if (high != nullptr) pairs |= widen_bits(high + c, lanes) << 16;
                store_lanes(target + c, pairs);
            });
        }
    }

    // Carries no factor.
    static void panels(HeadRows<const BFloat16> source, RowList list, Index count,
                       Width<float> width, float, KeyPanels<X> keys) {
        const Index pairs = depth(width.dim);
        X* target = keys.panels;
        if (lone_keys<float>(count) > 0) rows(source, list, --count, 1, width, keys.lone);
        for (Index first = 0; first < count; first += 16) {
            const BFloat16* from[16];
            for (Index i = 0; i < 16; ++i) {
                from[i] = first + i < count ? source[list[first + i]] : nullptr;
            }
            for (Index c = 0; c < pairs; c += 16) {
                Vec<float> square[16];
                for (Index i = 0; i < 16; ++i) {
                    square[i] =
                        from[i] == nullptr
                            ? Vec<float>{}
                            : bit_cast<Vec<float>>(load_pairs(from[i] + 2 * c, width.dim - 2 * c));
                }
                transpose<float>(square);
                for (Index i = 0; i < minimum<Index>(16, pairs - c); ++i) {
                    store(reinterpret_cast<float*>(target) + (first * pairs) + (c + i) * 16,
                          square[i]);
                }
            }
        }
    }
};

// A row of weights as pairs along it, times the factors of its columns if there are any. Whole
// vectors.
inline void pair_row(const float* weights, Index vectors, const float* factors, uint32_t* pairs) {
    for (Index v = 0; v < vectors; ++v) {
        Vec<float> w = load(weights + v * 16);
        if (factors != nullptr) w *= load(factors + v * 16);
        store_lanes(pairs + v * 8, round_to_bf16(w));
    }
}

// Rows of weights as pairs of neighbouring rows, times the factors of the rows if there are any.
inline void pair_rows(const float* weights, Index rows, Index row, const float* factors,
                      uint32_t* pairs) {
    for (Index i = 0; i < rows; i += 2, pairs += row) {
        const bool both = i + 1 < rows;
        const float low = factors != nullptr ? factors[i] : 1;
        const float high = factors != nullptr && both ? factors[i + 1] : 1;
        const float* next = weights + (both ? i + 1 : i) * row;
        for (Index j = 0; j < row; j += 16) {
            const PairVec a =
                __builtin_convertvector(round_to_bf16(load(weights + i * row + j) * low), PairVec);
            const PairVec b =
                __builtin_convertvector(round_to_bf16(load(next + j) * high), PairVec);
            store_lanes(pairs + j, both ? a | b << 16 : a);
        }
    }
}
#endif

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
