// The forward kernel: a team takes 16 queries per warp of one (group, head) and streams the keys with an online softmax.
//
// A team of one warp serves groups of up to about 32 tokens, four such teams share a block; a team of four warps serves the
// others, 64 queries at a time, so that a window of 49 reads each of its rows once. Weights go through shared memory on
// their way to the second product: one code path for all types. Keeping them in registers is left for a GPU to decide.
#pragma once

#include "score.hpp"

namespace unitrans::cuda {

// Keys of a tile: what fits the registers and 99 KiB of shared memory, the least of the architectures built for.
template <class T, int kDim>
inline constexpr int kTileKeys = kIsHalf<T> ? (kDim <= 64 ? 64 : 32)
                                            : (kDim <= 32   ? 64
                                               : kDim <= 64 ? 32
                                                            : 16);

// Cuts a piece of shared memory.
struct Shared {
    char* at;
    template <class T>
    UNITRANS_DEVICE T* take(int count) {
        T* p = reinterpret_cast<T*>(at);
        at += (count * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
        return p;
    }
};
constexpr int padded_bytes(int bytes) { return (bytes + 15) / 16 * 16; }

struct ForwardCall : Call {
    Rows out;
    float* lse = nullptr;  // [Tq, N] or null
};

template <class T, int kDim, int kWarpsOfTeam>
struct ForwardKernel {
    using Arguments = ForwardCall;
    static constexpr int kWarps = kWarpsOfTeam, kRows = 16 * kWarps, kKeys = kTileKeys<T, kDim>;
    static constexpr int kSharedBytes = (kRows + 2 * kKeys) * kStride<T, kDim> * int(sizeof(T)) +
                                        kRows * kStride<T, kKeys> * int(sizeof(T)) +
                                        2 * padded_bytes(4 * kRows) + 2 * padded_bytes(4 * kKeys) +
                                        padded_bytes(4 * kRows) + padded_bytes(4 * kKeys);

    // Item: (group, slot, head), heads fastest, as the rows of neighbouring heads lie side by side.
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char* memory) {
        const int64_t head = item % a.problem.num_heads, rest = item / a.problem.num_heads;
        const Pairing pair(a.problem, rest / a.slots, head);
        for (int first = static_cast<int>(rest % a.slots) * kRows; first < pair.num_queries;
             first += a.slots * kRows) {
            tile(team, a, pair, first, memory);
        }
    }

    template <class Team>
    UNITRANS_DEVICE static void tile(Team& team, const Arguments& a, const Pairing& pair, int first,
                                     char* memory) {
        const Problem& p = a.problem;
        const int dim = static_cast<int>(p.head_dim);
        const int count = pair.num_queries - first < kRows ? pair.num_queries - first : kRows;
        const Dropout dropout(a, pair.head);
        const HeadRows<T> queries(p.q, pair.head), keys(p.k, pair.head), values(p.v, pair.head);
        Shared shared{memory};
        T* q = shared.take<T>(kRows * kStride<T, kDim>);
        T* k = shared.take<T>(kKeys * kStride<T, kDim>);
        T* v = shared.take<T>(kKeys * kStride<T, kDim>);
        T* weights = shared.take<T>(kRows * kStride<T, kKeys>);
        const Listed own{shared.take<int32_t>(kRows), shared.take<int32_t>(kRows)};
        const Listed other{shared.take<int32_t>(kKeys), shared.take<int32_t>(kKeys)};
        float *own_inverse = shared.take<float>(kRows), *other_inverse = shared.take<float>(kKeys);

        team.sync();  // what the last tile kept here has been read
        own.load(team, p.plan.query, p.num_queries, pair.query_begin, first, count);
        team.sync();
        load_rows<T, kDim>(team, q, queries, own.row, count, kRows, dim, a.vectors);
        team.sync();
        if (p.qk_norm) inverse_norms<T, kDim>(team, q, kRows, own_inverse);

        typename Team::template PerThread<Values<float, kDim / 2>> out;
        typename Team::template PerThread<Values<float, kKeys / 2>> s;
        typename Team::template PerThread<Values<float, 2>> peak, top, total;
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kDim / 2; ++i) out[t][i] = 0;
            top[t][0] = top[t][1] = minus_infinity();
            total[t][0] = total[t][1] = 0;
        });
        int begin, end;
        pair.reach_of_queries(first, first + count, begin, end);
        for (int from = begin; from < end; from += kKeys) {
            const int columns = end - from < kKeys ? end - from : kKeys,
                      filled = (columns + 15) / 16 * 16;
            team.sync();  // the tiles of the last keys have been read
            other.load(team, p.plan.key, p.num_keys, pair.key_begin, from, columns);
            team.sync();
            load_rows<T, kDim>(team, k, keys, other.row, columns, filled, dim, a.vectors);
            load_rows<T, kDim>(team, v, values, other.row, columns, filled, dim, a.vectors);
            team.sync();
            if (p.qk_norm) {
                inverse_norms<T, kDim>(team, k, filled, other_inverse);
                team.sync();
            }
            team.each([&](int t) {
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) s[t][i] = 0;
            });
            multiply_rows<T, kKeys, kDim>(team, s, q, k, columns);
            team.each([&](int t) {
                peak[t][0] = peak[t][1] = minus_infinity();
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) {
                    const int row = row_of(t, i), column = column_of(t, i);
                    float score = minus_infinity();
                    if (pair.reached(first + row, from + column) && column < columns) {
                        score = s[t][i] * pair.scale;
                        if (p.qk_norm) score *= own_inverse[row] * other_inverse[column];
                        if (pair.bias)
                            score += pair.bias[pair.entry(own.place[row], other.place[column])];
                    }
                    s[t][i] = score;
                    peak[t][i / 2 % 2] =
                        fmaxf(peak[t][i / 2 % 2], score);  // NaN stays out of the maximum
                }
            });
            team.quad_max(peak);
            team.each([&](int t) {
                Values<float, 2> shift;
                UNITRANS_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float next = fmaxf(top[t][r], peak[t][r]);
                    shift[r] =
                        next == minus_infinity() ? 0 : next;  // -inf minus -inf must not occur
                    const float shrink = exponential<T>(top[t][r] - shift[r]);
                    top[t][r] = next;
                    total[t][r] *= shrink;
                    UNITRANS_UNROLL
                    for (int i = 0; i < kDim / 2; ++i) {
                        if (i / 2 % 2 == r) out[t][i] *= shrink;
                    }
                }
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) {
                    const int row = row_of(t, i), column = column_of(t, i);
                    float weight = exponential<T>(s[t][i] - shift[i / 2 % 2]);
                    total[t][i / 2 % 2] += weight;
                    if (dropout.on && weight != 0)
                        weight *= dropout.keep(own.row[row], other.row[column]);
                    weights[row * kStride<T, kKeys> + column] = from_float<T>(weight);
                }
            });
            team.sync_warps();
            multiply_matrix<T, kDim, kKeys>(team, out, weights, v, columns);
        }
        team.quad_sum(total);
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int r = 0; r < 2; ++r) {
                const float sum = total[t][r], inverse = sum == 0 ? 0 : 1 / sum;
                UNITRANS_UNROLL
                for (int i = 0; i < kDim / 2; ++i) {
                    if (i / 2 % 2 == r) out[t][i] *= inverse;
                }
                const int row = row_of(t, 2 * r);
                if (a.lse && t % 4 == 0 && row < count) {
                    const float shift = top[t][r] == minus_infinity() ? 0 : top[t][r];
                    a.lse[int64_t(own.row[row]) * p.num_heads + pair.head] =
                        sum == 0 ? minus_infinity() : shift + logf(sum);
                }
            }
        });
        team.sync();
        accumulator_to_tile<T, kDim>(team, out, q);
        team.sync();
        store_rows<T, kDim>(team, q, a.out, pair.head, own.row, count, dim, a.vectors);
    }
};

}  // namespace unitrans::cuda
