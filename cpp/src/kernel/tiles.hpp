// Products of small matrices that lie in scratch memory: C = [C +] A B.
//
// One element of A at a time is spread over a vector and multiplied with vectors of B. A tile of C
// stays in registers for the whole sum, so its size is set by the number of vector registers.
#pragma once

#include "convert.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

inline constexpr int kTileRows = 6;
#if UNITRANS_VECTOR_BYTES == 64 || defined(__aarch64__)
inline constexpr int kTileVectors = 4;  // 32 registers: 24 sums, 4 of B
#else
inline constexpr int kTileVectors = 2;  // 16 registers: 12 sums, 2 of B, 1 of A
#endif

// Element types X of A and B: E itself, or a pair of 16-bit values of which one lane holds the sum
// of two products.
template <class E, class X>
struct Operand;
template <class E>
struct Operand<E, E> {
    using Vector = Vec<E>;
    static constexpr bool kScaled = true;  // the scale of the scores is in B
    [[gnu::always_inline]] static void add_product(Vec<E>& sum, Vec<E> left, Vec<E> right) {
        sum += left * right;
    }
};

// A(m, k) = data[m * stride + k], or data[k * stride + m] if `across`.
template <class X>
struct Left {
    const X* data;
    Index stride;
};

// Vector v of B's row k starts at data[k * depth + v * vector].
template <class X>
struct Right {
    const X* data;
    Index depth, vector;
};

// C(m, n) = data[m * row + n]
template <class E>
struct Target {
    E* data;
    Index row;
};

template <class E, int rows, int vectors, bool across, class X>
[[gnu::always_inline]] inline void add_products(Index depth, Left<X> a, Right<X> b,
                                                Vec<E> (&sum)[rows][vectors]) {
    using Op = Operand<E, X>;
    for (Index k = 0; k < depth; ++k) {
        typename Op::Vector right[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            right[v] = load_lanes<typename Op::Vector>(b.data + v * b.vector);
        }
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            const auto left = a.data[across ? m : m * a.stride] - typename Op::Vector{};
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) Op::add_product(sum[m][v], left, right[v]);
        }
        a.data += across ? a.stride : 1;
        b.data += b.depth;
    }
}

// The compiler may not carry addresses of C through the sum: registers are for sums.
template <class E>
[[gnu::always_inline]] inline void forget_addresses(Target<E>& c) {
    asm("" : "+r"(c.data), "+r"(c.row));
}

template <class E, int rows, int vectors, bool across, class X>
[[gnu::noinline]] void tile(Index depth, Left<X> a, Right<X> b, Target<E> c, bool accumulate) {
    constexpr int n = kLanes<E>;
    Vec<E> sum[rows][vectors];
    if (accumulate) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[m][v] = load(c.data + m * c.row + v * n);
        }
    } else {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[m][v] = Vec<E>{};
        }
    }
    forget_addresses(c);
    add_products<E, rows, vectors, across>(depth, a, b, sum);
    forget_addresses(c);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(c.data + m * c.row + v * n, sum[m][v]);
    }
}

// Cuts n things into pieces of at most `most`, nearly equal: a lone last row would wait for its own
// sums.
struct Pieces {
    Index count, size, larger;  // the first `larger` pieces have one thing more than `size`

    Pieces(Index n, Index most) : count(1), size(n), larger(0) {
        if (n <= most) {
            count = n > 0;
            return;
        }
        // 32 bits: a division of 64 costs as much as a row of scores.
        count = static_cast<uint32_t>(n + most - 1) / static_cast<uint32_t>(most);
        size = static_cast<uint32_t>(n) / static_cast<uint32_t>(count);
        larger = n - size * count;
    }
    Index begin(Index piece) const { return piece * size + minimum(piece, larger); }
    Index length(Index piece) const { return size + (piece < larger ? 1 : 0); }
};

template <int n>
struct Count {
    static constexpr int value = n;
};

// Calls body(Count<rows>{}), rows = 1 .. kTileRows.
template <class Body>
[[gnu::always_inline]] inline void with_rows(Index rows, Body&& body) {
    static_assert(kTileRows == 6);
    switch (rows) {
        case 1:
            return body(Count<1>{});
        case 2:
            return body(Count<2>{});
        case 3:
            return body(Count<3>{});
        case 4:
            return body(Count<4>{});
        case 5:
            return body(Count<5>{});
        case 6:
            return body(Count<6>{});
    }
}

// Calls body(first, Count<vectors>{}) for tiles that cover `vectors` vectors.
template <class Body>
[[gnu::always_inline]] inline void for_tiles(Index vectors, Body&& body) {
    Index first = 0;
    while (first < vectors) {
        const Index left = vectors - first;
        // The last two share what is left.
        const Index take = left <= kTileVectors      ? left
                           : left < 2 * kTileVectors ? (left + 1) / 2
                                                     : kTileVectors;
        switch (take) {
            case 1:
                body(first, Count<1>{});
                break;
            case 2:
                body(first, Count<2>{});
                break;
#if UNITRANS_VECTOR_BYTES == 64 || defined(__aarch64__)
            case 3:
                body(first, Count<3>{});
                break;
            case 4:
                body(first, Count<4>{});
                break;
#endif
        }
        first += take;
    }
}

// `rows` rows of C.
template <class E, int rows, bool across, class X>
[[gnu::always_inline]] inline void multiply_rows(Index vectors, Index depth, Left<X> a, Right<X> b,
                                                 Target<E> c, bool accumulate) {
    for_tiles(vectors, [&](Index first, auto count) {
        tile<E, rows, count.value, across>(depth, a, {b.data + first * b.vector, b.depth, b.vector},
                                           Target<E>{c.data + first * kLanes<E>, c.row},
                                           accumulate);
    });
}

// dots[m] = row m of A times `other`, both of `length` elements in whole vectors.
template <class E, int rows, class X>
[[gnu::always_inline]] inline void dot_rows(Index length, Left<X> a, const X* other,
                                            E (&dots)[rows]) {
    using Op = Operand<E, X>;
    Vec<E> sum[rows] = {};
    for (Index c = 0; c < length; c += kLanes<E>) {
        const auto right = load_lanes<typename Op::Vector>(other + c);
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            Op::add_product(sum[m], load_lanes<typename Op::Vector>(a.data + m * a.stride + c),
                            right);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) dots[m] = reduce_add<E>(sum[m]);
}

// C [rows, vectors * kLanes] = A [rows, depth] B [depth, vectors * kLanes], plus C itself if
// `accumulate`.
template <class E, bool across, class X>
void multiply(Index rows, Index vectors, Index depth, Left<X> a, Right<X> b, Target<E> c,
              bool accumulate) {
    const Pieces blocks(rows, kTileRows);
    for (Index i = 0; i < blocks.count; ++i) {
        const Index length = blocks.length(i);
        with_rows(length, [&](auto count) {
            multiply_rows<E, count.value, across>(vectors, depth, a, b, c, accumulate);
        });
        a.data += across ? length : length * a.stride;
        c.data += length * c.row;
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
