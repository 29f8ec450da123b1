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

// A(m, k) = data[m * row + k * depth]
template <class E>
struct Left {
    const E* data;
    Index row, depth;
};

// Vector v of B's row k starts at data[k * depth + v * vector].
template <class E>
struct Right {
    const E* data;
    Index depth, vector;
};

// C(m, n) = data[m * row + n]
template <class E>
struct Target {
    E* data;
    Index row;
};

template <class E, int rows, int vectors>
[[gnu::noinline]] void tile(Index depth, Left<E> a, Right<E> b, Target<E> c, bool accumulate) {
    constexpr int n = kLanes<E>;
    Vec<E> sum[rows][vectors];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            sum[m][v] = accumulate ? load(c.data + m * c.row + v * n) : Vec<E>{};
        }
    }
    for (Index k = 0; k < depth; ++k) {
        Vec<E> right[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) right[v] = load(b.data + v * b.vector);
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            const Vec<E> left = broadcast(a.data[m * a.row]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[m][v] += left * right[v];
        }
        a.data += a.depth;
        b.data += b.depth;
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(c.data + m * c.row + v * n, sum[m][v]);
    }
}

// All vectors of `rows` rows of C, in tiles of nearly equal width.
template <class E, int rows>
void multiply_block(Index vectors, Index depth, Left<E> a, Right<E> b, Target<E> c,
                    bool accumulate) {
    const Index tiles = (vectors + kTileVectors - 1) / kTileVectors;
    for (Index t = 0; t < tiles; ++t) {
        const Index first = vectors * t / tiles, width = vectors * (t + 1) / tiles - first;
        const Right<E> right{b.data + first * b.vector, b.depth, b.vector};
        const Target<E> target{c.data + first * kLanes<E>, c.row};
        switch (width) {
            case 1:
                tile<E, rows, 1>(depth, a, right, target, accumulate);
                break;
            case 2:
                tile<E, rows, 2>(depth, a, right, target, accumulate);
                break;
#if UNITRANS_VECTOR_BYTES == 64 || defined(__aarch64__)
            case 3:
                tile<E, rows, 3>(depth, a, right, target, accumulate);
                break;
            case 4:
                tile<E, rows, 4>(depth, a, right, target, accumulate);
                break;
#endif
        }
    }
}

// Calls body(std::integral_constant-like tag) with the number of rows, 1 .. kTileRows, known to the
// compiler.
template <int n>
struct Count {
    static constexpr int value = n;
};
template <class Body>
inline void with_rows(Index rows, Body&& body) {
    static_assert(kTileRows == 6);
    switch (rows) {
        case 1:
            body(Count<1>{});
            break;
        case 2:
            body(Count<2>{});
            break;
        case 3:
            body(Count<3>{});
            break;
        case 4:
            body(Count<4>{});
            break;
        case 5:
            body(Count<5>{});
            break;
        case 6:
            body(Count<6>{});
            break;
    }
}

// Cuts n rows into blocks of at most kTileRows rows, nearly equal: a lone last row would wait for
// its own sums.
struct RowBlocks {
    Index rows, count;
    explicit RowBlocks(Index n) : rows(n), count((n + kTileRows - 1) / kTileRows) {}
    Index begin(Index block) const { return rows * block / count; }
    Index size(Index block) const { return begin(block + 1) - begin(block); }
};

// C [rows, vectors * kLanes] = A [rows, depth] B [depth, vectors * kLanes], plus C itself if
// `accumulate`.
template <class E>
void multiply(Index rows, Index vectors, Index depth, Left<E> a, Right<E> b, Target<E> c,
              bool accumulate) {
    const RowBlocks blocks(rows);
    for (Index i = 0; i < blocks.count; ++i) {
        const Index first = blocks.begin(i);
        const Left<E> left{a.data + first * a.row, a.row, a.depth};
        const Target<E> target{c.data + first * c.row, c.row};
        with_rows(blocks.size(i), [&](auto count) {
            multiply_block<E, count.value>(vectors, depth, left, b, target, accumulate);
        });
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
