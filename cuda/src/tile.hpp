// Tiles of rows in shared memory: gathered through the list of a group, multiplied, written back.
//
// Rows are padded to the head_dim class with zeros and lie kStride elements apart: a multiple of 16 bytes, and eight rows
// never share a bank. Copies are plain loads in vectors of 16 bytes; whether cp.async or TMA gains anything for rows that
// are gathered is left for a GPU to decide.
#pragma once

#include <type_traits>

#include "elements.hpp"
#include "unitrans/attention.hpp"

namespace unitrans::cuda {

template <class T, int kDim>
inline constexpr int kStride = kDim + 16 / static_cast<int>(sizeof(T));

struct alignas(16) Vector {
    uint32_t x[4];
};

// An accumulator [16 rows of each warp, 8 * k columns]: element i of a thread lies here (m16n8 fragments side by side).
UNITRANS_DEVICE int row_of(int thread, int i) {
    return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
}
UNITRANS_DEVICE int column_of(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

// Rows of one head, as the arrays of a problem are addressed.
template <class T>
struct HeadRows {
    const T* data;
    int64_t row_stride;

    UNITRANS_DEVICE HeadRows(const ConstRows& rows, int64_t head)
        : data(static_cast<const T*>(rows.data) + head * rows.head_stride),
          row_stride(rows.row_stride) {}
};

// tile[r] = source[rows[r]] for r < count, zeros up to `capacity` rows and kDim columns. `vectors`: every row starts at a
// multiple of 16 bytes and its length is one.
template <class T, int kDim, class Team>
UNITRANS_DEVICE void load_rows(Team& team, T* tile, const HeadRows<T>& source, const int32_t* rows,
                               int count, int capacity, int dim, bool vectors) {
    constexpr int kPer = 16 / static_cast<int>(sizeof(T)), kChunks = kDim / kPer;
    team.each([&](int t) {
        for (int c = t; c < capacity * kChunks; c += Team::kThreads) {
            const int r = c / kChunks, first = c % kChunks * kPer;
            T* to = tile + r * kStride<T, kDim> + first;
            if (r >= count || first >= dim) {
                *reinterpret_cast<Vector*>(to) = Vector{};
                continue;
            }
            const T* from = source.data + rows[r] * source.row_stride + first;
            if (vectors) {
                *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(from);
            } else {
                for (int x = 0; x < kPer; ++x) to[x] = first + x < dim ? from[x] : T{};
            }
        }
    });
}

// The first `count` rows of the tile to rows[r] of `to`.
template <class T, int kDim, class Team>
UNITRANS_DEVICE void store_rows(Team& team, const T* tile, const Rows& to, int64_t head,
                                const int32_t* rows, int count, int dim, bool vectors) {
    constexpr int kPer = 16 / static_cast<int>(sizeof(T)), kChunks = kDim / kPer;
    T* data = static_cast<T*>(to.data) + head * to.head_stride;
    team.each([&](int t) {
        for (int c = t; c < count * kChunks; c += Team::kThreads) {
            const int r = c / kChunks, first = c % kChunks * kPer;
            if (first >= dim) continue;
            const T* from = tile + r * kStride<T, kDim> + first;
            T* at = data + rows[r] * to.row_stride + first;
            if (vectors) {
                *reinterpret_cast<Vector*>(at) = *reinterpret_cast<const Vector*>(from);
            } else {
                for (int x = 0; x < kPer && first + x < dim; ++x) at[x] = from[x];
            }
        }
    });
}

// inverse[r] = 1 / max(norm of row r, 1e-12). Rows stay as they are and scores take the factor: nothing is rounded twice.
template <class T, int kDim, class Team>
UNITRANS_DEVICE void inverse_norms(Team& team, const T* tile, int count, float* inverse) {
    team.each([&](int t) {
        for (int r = t; r < count; r += Team::kThreads) {
            float sum = 0;
            for (int c = 0; c < kDim; ++c) {
                const float x = to_float(tile[r * kStride<T, kDim> + c]);
                sum += x * x;
            }
            inverse[r] = 1 / fmaxf(sqrtf(sum), 1e-12f);
        }
    });
}

// Rows shorter than 1/256 are multiplied by a power of two and their inverse norms divided by it, which changes no product:
// a score gradient times such an inverse is rounded to T, and fp16 ends at 65504.
template <class T, int kDim, class Team>
UNITRANS_DEVICE void lift_short_rows(Team& team, T* tile, int count, float* inverse) {
    if constexpr (std::is_same_v<T, Float16>) {
        team.each([&](int t) {
            for (int r = t; r < count; r += Team::kThreads) {  // the rows of inverse_norms
                if (inverse[r] <= 256) continue;
                const float by = ldexpf(1.0f, ilogbf(inverse[r]));
                inverse[r] /= by;
                for (int c = 0; c < kDim; ++c) {
                    T& x = tile[r * kStride<T, kDim> + c];
                    x = from_float<T>(to_float(x) * by);
                }
            }
        });
    }
}

// acc += a b^T: a the 16 rows of each warp, b [columns, kDepth]. `columns`: how many count (the rest is not computed).
template <class T, int kColumns, int kDepth, class Team>
UNITRANS_DEVICE void multiply_rows(
    Team& team, typename Team::template PerThread<Values<float, kColumns / 2>>& acc, const T* a,
    const T* b, int columns) {
    constexpr int s = kStride<T, kDepth>;
    if constexpr (kIsHalf<T>) {
        typename Team::template PerThread<Values<uint32_t, 4>> x, y;
        UNITRANS_UNROLL
        for (int k = 0; k < kDepth; k += 16) {
            team.template load_matrices<false>(
                x, [&](int t) { return a + (t / 32 * 16 + t % 16) * s + k + t % 32 / 16 * 8; });
            UNITRANS_UNROLL
            for (int n = 0; n < kColumns; n += 16) {
                if (n >= columns) continue;
                team.template load_matrices<false>(y, [&](int t) {
                    return b + (n + t % 32 / 16 * 8 + t % 8) * s + k + t % 16 / 8 * 8;
                });
                team.template mma<T>(acc, n / 2, x, y, 0);
                team.template mma<T>(acc, n / 2 + 4, x, y, 2);
            }
        }
    } else {
        team.each([&](int t) {
            const T *low = a + row_of(t, 0) * s, *high = a + row_of(t, 2) * s;
            for (int k = 0; k < kDepth; ++k) {
                const float x0 = low[k], x1 = high[k];
                UNITRANS_UNROLL
                for (int i = 0; i < kColumns / 2; i += 4) {
                    if (2 * i >= columns) continue;
                    const float y0 = b[column_of(t, i) * s + k],
                                y1 = b[column_of(t, i + 1) * s + k];
                    acc[t][i] += x0 * y0;
                    acc[t][i + 1] += x0 * y1;
                    acc[t][i + 2] += x1 * y0;
                    acc[t][i + 3] += x1 * y1;
                }
            }
        });
    }
}

// acc += a b: a the 16 rows of each warp, kMaxDepth columns, of which `depth` count; b [depth, kColumns].
template <class T, int kColumns, int kMaxDepth, class Team>
UNITRANS_DEVICE void multiply_matrix(
    Team& team, typename Team::template PerThread<Values<float, kColumns / 2>>& acc, const T* a,
    const T* b, int depth) {
    constexpr int sa = kStride<T, kMaxDepth>, sb = kStride<T, kColumns>;
    if constexpr (kIsHalf<T>) {
        typename Team::template PerThread<Values<uint32_t, 4>> x, y;
        UNITRANS_UNROLL
        for (int k = 0; k < kMaxDepth; k += 16) {
            if (k >= depth) continue;
            team.template load_matrices<false>(
                x, [&](int t) { return a + (t / 32 * 16 + t % 16) * sa + k + t % 32 / 16 * 8; });
            UNITRANS_UNROLL
            for (int n = 0; n < kColumns; n += 16) {
                team.template load_matrices<true>(
                    y, [&](int t) { return b + (k + t % 16) * sb + n + t % 32 / 16 * 8; });
                team.template mma<T>(acc, n / 2, x, y, 0);
                team.template mma<T>(acc, n / 2 + 4, x, y, 2);
            }
        }
    } else {
        team.each([&](int t) {
            const T *low = a + row_of(t, 0) * sa, *high = a + row_of(t, 2) * sa;
            for (int k = 0; k < depth; ++k) {
                const float x0 = low[k], x1 = high[k];
                UNITRANS_UNROLL
                for (int i = 0; i < kColumns / 2; i += 4) {
                    const float y0 = b[k * sb + column_of(t, i)],
                                y1 = b[k * sb + column_of(t, i + 1)];
                    acc[t][i] += x0 * y0;
                    acc[t][i + 1] += x0 * y1;
                    acc[t][i + 2] += x1 * y0;
                    acc[t][i + 3] += x1 * y1;
                }
            }
        });
    }
}

// The accumulator, multiplied with factor(row), rounded into rows of the tile.
template <class T, int kColumns, class Team>
UNITRANS_DEVICE void accumulator_to_tile(
    Team& team, typename Team::template PerThread<Values<float, kColumns / 2>>& acc, T* tile) {
    team.each([&](int t) {
        UNITRANS_UNROLL
        for (int i = 0; i < kColumns / 2; ++i) {
            tile[row_of(t, i) * kStride<T, kColumns> + column_of(t, i)] = from_float<T>(acc[t][i]);
        }
    });
}

}  // namespace unitrans::cuda
