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

// Cuts n things into pieces of at most `most`, nearly equal: a lone last row would wait for its own
// sums.
struct Pieces {
    Index count, size, larger;  // the first `larger` pieces have one thing more than `size`

    Pieces(Index n, Index most) : count((n + most - 1) / most), size(n), larger(0) {
        if (count > 1) {
            size = n / count;
            larger = n - size * count;
        }
    }
    Index begin(Index piece) const { return piece * size + minimum(piece, larger); }
    Index length(Index piece) const { return size + (piece < larger ? 1 : 0); }
};

// All vectors of `rows` rows of C.
template <class E, int rows>
void multiply_block(Index vectors, Index depth, Left<E> a, Right<E> b, Target<E> c,
                    bool accumulate) {
    const Pieces tiles(vectors, kTileVectors);
    for (Index t = 0; t < tiles.count; ++t) {
        switch (tiles.length(t)) {
            case 1:
                tile<E, rows, 1>(depth, a, b, c, accumulate);
                break;
            case 2:
                tile<E, rows, 2>(depth, a, b, c, accumulate);
                break;
#if UNITRANS_VECTOR_BYTES == 64 || defined(__aarch64__)
            case 3:
                tile<E, rows, 3>(depth, a, b, c, accumulate);
                break;
            case 4:
                tile<E, rows, 4>(depth, a, b, c, accumulate);
                break;
#endif
        }
        b.data += tiles.length(t) * b.vector;
        c.data += tiles.length(t) * kLanes<E>;
    }
}

// Calls body(Count<rows>{}), rows = 1 .. kTileRows.
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

// C [rows, vectors * kLanes] = A [rows, depth] B [depth, vectors * kLanes], plus C itself if
// `accumulate`.
template <class E>
void multiply(Index rows, Index vectors, Index depth, Left<E> a, Right<E> b, Target<E> c,
              bool accumulate) {
    const Pieces blocks(rows, kTileRows);
    for (Index i = 0; i < blocks.count; ++i) {
        with_rows(blocks.length(i), [&](auto count) {
            multiply_block<E, count.value>(vectors, depth, a, b, c, accumulate);
        });
        a.data += blocks.length(i) * a.row;
        c.data += blocks.length(i) * c.row;
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
