// The backward kernels, which compute the scores again. Each side of a pair has its own: a team owns 16 rows per warp of
// one side and streams the other, so that every gradient has one writer and no sum depends on the order of teams.
//
//     QueryKernel  maximum, sum and delta of every row; dq; d(scale); d(bias) into partial planes
//     KeyKernel    dk, dv
//
// With P = exp(S - max) / sum, K the dropout factors and dP = dO v^T:
//     delta_i = sum_j P K dP - d(lse)_i        dS = P (K dP - delta)        dv_j = sum_i P K dO_i
//
// Nine products instead of the five of a kernel that is given out and lse (the contract reads neither). Where all keys of a
// group fit one tile, as in windows of up to 64 tokens, the second pass over the keys reuses the scores: seven.
// A single kernel for such groups, with P and dS in shared memory, would take five: left for a GPU to decide.
#pragma once

#include "bias_planes.hpp"
#include "forward.hpp"

namespace unitrans::cuda {

struct BackwardCall : Call {
    ConstRows grad_out;
    const float* grad_lse = nullptr;
    Rows dq, dk, dv;
    float* statistics = nullptr;   // [N, Mq, 3] maximum, 1 / sum, delta, by list entry
    int64_t listed_queries = 0;    // Mq
    float* scale_parts = nullptr;  // [N, parts] d(scale) of each item; null: not wanted
    int64_t parts = 0;
    BiasPlanes planes;  // partial d(bias); not wanted: num_chunks 0
    float* key_parts =
        nullptr;  // [2, Mk, N, D] dk and dv by list entry, where a key may be listed twice
    int64_t listed_keys = 0;  // Mk
};

// Tiles of both sides in shared memory: own rows x1 (q or k) and x2 (dO or v), streamed rows y1, y2.
template <class T, int kDim, int kRows, int kOther>
struct BackwardTiles {
    T *x1, *x2, *y1, *y2, *product;
    Listed own, other;
    float *own_inverse, *other_inverse;
    float *maximum, *inverse_sum,
        *delta;  // of the queries: own in QueryKernel, streamed in KeyKernel

    static constexpr int kQueries = kRows > kOther ? kRows : kOther;
    static constexpr int kBytes = 2 * (kRows + kOther) * kStride<T, kDim> * int(sizeof(T)) +
                                  kRows * kStride<T, kOther> * int(sizeof(T)) +
                                  3 * padded_bytes(4 * kRows) + 3 * padded_bytes(4 * kOther) +
                                  3 * padded_bytes(4 * kQueries);

    UNITRANS_DEVICE explicit BackwardTiles(char* memory) {
        Shared shared{memory};
        x1 = shared.take<T>(kRows * kStride<T, kDim>);
        x2 = shared.take<T>(kRows * kStride<T, kDim>);
        y1 = shared.take<T>(kOther * kStride<T, kDim>);
        y2 = shared.take<T>(kOther * kStride<T, kDim>);
        product = shared.take<T>(kRows * kStride<T, kOther>);
        own = {shared.take<int32_t>(kRows), shared.take<int32_t>(kRows)};
        other = {shared.take<int32_t>(kOther), shared.take<int32_t>(kOther)};
        own_inverse = shared.take<float>(kRows);
        other_inverse = shared.take<float>(kOther);
        maximum = shared.take<float>(kQueries);
        inverse_sum = shared.take<float>(kQueries);
        delta = shared.take<float>(kQueries);
    }
};

// acc (the gradient of rows of the left factor, which were divided by their norms where `inverse` is given) times
// `scale`, through the norm, into the tile of these rows, which holds their values. A barrier of the warp must lie between
// this and what other threads read there.
template <class T, int kDim, class Team>
UNITRANS_DEVICE void finish_rows(Team& team,
                                 typename Team::template PerThread<Values<float, kDim / 2>>& acc,
                                 T* rows, float scale, const float* inverse) {
    typename Team::template PerThread<Values<float, 2>> along;
    team.each([&](int t) {
        along[t][0] = along[t][1] = 0;
        UNITRANS_UNROLL
        for (int i = 0; i < kDim / 2; ++i) {
            acc[t][i] *= scale;
            if (inverse) {
                const float unit =
                    to_float(rows[row_of(t, i) * kStride<T, kDim> + column_of(t, i)]) *
                    inverse[row_of(t, i)];
                along[t][i / 2 % 2] += acc[t][i] * unit;
            }
        }
    });
    if (inverse) {
        team.quad_sum(along);
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kDim / 2; ++i) {
                const float by = inverse[row_of(t, i)];
                const float unit =
                    to_float(rows[row_of(t, i) * kStride<T, kDim> + column_of(t, i)]) * by;
                acc[t][i] = by >= 1 / 1e-12f ? 0 /* norm below eps: a constant */
                                             : (acc[t][i] - along[t][i / 2 % 2] * unit) * by;
            }
        });
    }
    accumulator_to_tile<T, kDim>(team, acc, rows);  // every thread read what it writes
    team.sync();
}

template <class T, int kDim, int kWarpsOfTeam>
struct QueryKernel {
    using Arguments = BackwardCall;
    static constexpr int kWarps = kWarpsOfTeam, kRows = 16 * kWarps, kKeys = kTileKeys<T, kDim>;
    using Tiles = BackwardTiles<T, kDim, kRows, kKeys>;
    static constexpr int kSharedBytes = Tiles::kBytes;
    template <class Team, int n>
    using Numbers = typename Team::template PerThread<Values<float, n>>;

    // Item: (group, slot, head); with d(bias) (chunk of groups, head), so that a partial plane has one writer.
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char* memory) {
        const int64_t head = item % a.problem.num_heads, rest = item / a.problem.num_heads;
        Numbers<Team, 1> scale_sum;
        team.each([&](int t) { scale_sum[t][0] = 0; });
        if (a.planes.num_chunks > 0) {
            int64_t begin, end;
            a.planes.groups_of(rest, a.problem.plan.num_groups, begin, end);
            for (int64_t group = begin; group < end; ++group) {
                const Pairing pair(a.problem, group, head);
                const PartialPlane plane(a.planes, a.problem, pair, rest, head, group);
                for (int first = 0; first < pair.num_queries; first += kRows) {
                    tile(team, a, pair, plane, first, memory, scale_sum);
                }
            }
        } else {
            const Pairing pair(a.problem, rest / a.slots, head);
            const int start = static_cast<int>(rest % a.slots) * kRows;
            for (int first = start; first < pair.num_queries; first += a.slots * kRows) {
                tile(team, a, pair, PartialPlane{}, first, memory, scale_sum);
            }
        }
        if (a.scale_parts) {
            float* sums = reinterpret_cast<float*>(memory);
            team.sync();
            team.each([&](int t) { sums[t] = scale_sum[t][0]; });
            team.sync();
            team.each([&](int t) {
                if (t != 0) return;
                float sum = 0;
                for (int i = 0; i < Team::kThreads; ++i) sum += sums[i];
                a.scale_parts[head * a.parts + rest] = sum;
            });
        }
    }

    // s = q k^T and d = dO v^T of the keys [from, from + columns).
    template <class Team>
    UNITRANS_DEVICE static void products(Team& team, const Arguments& a, const Pairing& pair,
                                         const Tiles& tiles, int from, int columns,
                                         Numbers<Team, kKeys / 2>& s, Numbers<Team, kKeys / 2>& d) {
        const Problem& p = a.problem;
        const int dim = static_cast<int>(p.head_dim), filled = (columns + 15) / 16 * 16;
        team.sync();
        tiles.other.load(team, p.plan.key, p.num_keys, pair.key_begin, from, columns);
        team.sync();
        load_rows<T, kDim>(team, tiles.y1, HeadRows<T>(p.k, pair.head), tiles.other.row, columns,
                           filled, dim, a.vectors);
        load_rows<T, kDim>(team, tiles.y2, HeadRows<T>(p.v, pair.head), tiles.other.row, columns,
                           filled, dim, a.vectors);
        team.sync();
        if (p.qk_norm) {
            inverse_norms<T, kDim>(team, tiles.y1, filled, tiles.other_inverse);
            lift_short_rows<T, kDim>(team, tiles.y1, filled, tiles.other_inverse);
            team.sync();
        }
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kKeys / 2; ++i) s[t][i] = d[t][i] = 0;
        });
        multiply_rows<T, kKeys, kDim>(team, s, tiles.x1, tiles.y1, columns);
        multiply_rows<T, kKeys, kDim>(team, d, tiles.x2, tiles.y2, columns);
    }

    template <class Team>
    UNITRANS_DEVICE static void tile(Team& team, const Arguments& a, const Pairing& pair,
                                     const PartialPlane& plane, int first, char* memory,
                                     Numbers<Team, 1>& scale_sum) {
        const Problem& p = a.problem;
        const int dim = static_cast<int>(p.head_dim);
        const int count = pair.num_queries - first < kRows ? pair.num_queries - first : kRows;
        const Dropout dropout(a, pair.head);
        const Tiles tiles(memory);
        team.sync();
        tiles.own.load(team, p.plan.query, p.num_queries, pair.query_begin, first, count);
        team.sync();
        load_rows<T, kDim>(team, tiles.x1, HeadRows<T>(p.q, pair.head), tiles.own.row, count, kRows,
                           dim, a.vectors);
        load_rows<T, kDim>(team, tiles.x2, HeadRows<T>(a.grad_out, pair.head), tiles.own.row, count,
                           kRows, dim, a.vectors);
        team.sync();
        if (p.qk_norm) {
            inverse_norms<T, kDim>(team, tiles.x1, kRows, tiles.own_inverse);
            team.sync();  // also where no pair follows, and with it no other barrier
        }

        Numbers<Team, kKeys / 2> s, d;
        Numbers<Team, 2> peak, top, total, delta;
        // The score without the bias, and the factor that it has to the product.
        const auto factor = [&](int row, int column) {
            return p.qk_norm ? pair.scale * tiles.own_inverse[row] * tiles.other_inverse[column]
                             : pair.scale;
        };
        const auto score_of = [&](int t, int i, int from, int columns) {
            const int row = row_of(t, i), column = column_of(t, i);
            if (column >= columns || !pair.reached(first + row, from + column))
                return minus_infinity();
            float score = s[t][i] * factor(row, column);
            if (pair.bias) {
                score += pair.bias[pair.entry(tiles.own.place[row], tiles.other.place[column])];
            }
            return score;
        };
        team.each([&](int t) {
            top[t][0] = top[t][1] = minus_infinity();
            total[t][0] = total[t][1] = delta[t][0] = delta[t][1] = 0;
        });
        int begin, end;
        pair.reach_of_queries(first, first + count, begin, end);
        for (int from = begin; from < end; from += kKeys) {
            const int columns = end - from < kKeys ? end - from : kKeys;
            products(team, a, pair, tiles, from, columns, s, d);
            team.each([&](int t) {
                peak[t][0] = peak[t][1] = minus_infinity();
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) {
                    peak[t][i / 2 % 2] = fmaxf(peak[t][i / 2 % 2], score_of(t, i, from, columns));
                }
            });
            team.quad_max(peak);
            team.each([&](int t) {
                Values<float, 2> shift;
                UNITRANS_UNROLL
                for (int r = 0; r < 2; ++r) {
                    const float next = fmaxf(top[t][r], peak[t][r]);
                    shift[r] = next == minus_infinity() ? 0 : next;
                    const float shrink = exponential<T>(top[t][r] - shift[r]);
                    top[t][r] = next;
                    total[t][r] *= shrink;
                    delta[t][r] *= shrink;
                }
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) {
                    const float score = score_of(t, i, from, columns);
                    const float weight = exponential<T>(score - shift[i / 2 % 2]);
                    total[t][i / 2 % 2] += weight;
                    if (weight != 0) {
                        const int row = row_of(t, i), column = column_of(t, i);
                        delta[t][i / 2 % 2] +=
                            weight * d[t][i] *
                            dropout.keep(tiles.own.row[row], tiles.other.row[column]);
                    }
                }
            });
        }
        team.quad_sum(total);
        team.quad_sum(delta);
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int r = 0; r < 2; ++r) {
                const int row = row_of(t, 2 * r);
                const float sum = total[t][r], inverse = sum == 0 ? 0 : 1 / sum;
                top[t][r] = top[t][r] == minus_infinity() ? 0 : top[t][r];
                total[t][r] = inverse;
                delta[t][r] *= inverse;
                if (row >= count) continue;
                if (a.grad_lse && sum != 0) {
                    delta[t][r] -=
                        a.grad_lse[int64_t(tiles.own.row[row]) * p.num_heads + pair.head];
                }
                if (t % 4 == 0) {
                    float* to = a.statistics +
                                3 * (pair.head * a.listed_queries + pair.query_begin + first + row);
                    to[0] = top[t][r];
                    to[1] = inverse;
                    to[2] = delta[t][r];
                }
            }
        });

        Numbers<Team, kDim / 2> dq;
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kDim / 2; ++i) dq[t][i] = 0;
        });
        const bool one_tile = end - begin <= kKeys;
        for (int from = begin; from < end; from += kKeys) {
            const int columns = end - from < kKeys ? end - from : kKeys;
            if (!one_tile) products(team, a, pair, tiles, from, columns, s, d);
            team.each([&](int t) {
                UNITRANS_UNROLL
                for (int i = 0; i < kKeys / 2; ++i) {
                    const int row = row_of(t, i), column = column_of(t, i), r = i / 2 % 2;
                    float ds = 0, to_key = 0;
                    if (column < columns && pair.reached(first + row, from + column)) {
                        const float weight =
                            exponential<T>(score_of(t, i, from, columns) - top[t][r]) * total[t][r];
                        const float keep =
                            dropout.keep(tiles.own.row[row], tiles.other.row[column]);
                        ds = weight * (keep * d[t][i] - delta[t][r]);
                        const float norms =
                            p.qk_norm ? tiles.own_inverse[row] * tiles.other_inverse[column] : 1.0f;
                        scale_sum[t][0] += ds * s[t][i] * norms;
                        to_key = p.qk_norm ? ds * tiles.other_inverse[column] : ds;
                        if (plane.data && !plane.aliased) {
                            plane.at(pair, tiles.own.place[row], tiles.other.place[column]) += ds;
                        }
                    }
                    s[t][i] = ds;
                    tiles.product[row * kStride<T, kKeys> + column] = from_float<T>(to_key);
                }
            });
            if (plane.data && plane.aliased) {
                plane.add_in_order(team, s, tiles, kRows, columns, first, from, pair);
            }
            team.sync_warps();
            multiply_matrix<T, kDim, kKeys>(team, dq, tiles.product, tiles.y1, columns);
        }
        finish_rows<T, kDim>(team, dq, tiles.x1, pair.scale,
                             p.qk_norm ? tiles.own_inverse : nullptr);
        store_rows<T, kDim>(team, tiles.x1, a.dq, pair.head, tiles.own.row, count, dim, a.vectors);
    }
};

template <class T, int kDim, int kWarpsOfTeam>
struct KeyKernel {
    using Arguments = BackwardCall;
    static constexpr int kWarps = kWarpsOfTeam, kRows = 16 * kWarps;
    static constexpr int kQueries =
        kDim > 64 && kIsHalf<T> ? 16 : kTileKeys<T, kDim>;  // registers of dk and dv
    using Tiles = BackwardTiles<T, kDim, kRows, kQueries>;
    static constexpr int kSharedBytes = Tiles::kBytes;
    template <class Team, int n>
    using Numbers = typename Team::template PerThread<Values<float, n>>;

    // Item: (group, slot, head).
    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char* memory) {
        const int64_t head = item % a.problem.num_heads, rest = item / a.problem.num_heads;
        const Pairing pair(a.problem, rest / a.slots, head);
        for (int first = static_cast<int>(rest % a.slots) * kRows; first < pair.num_keys;
             first += a.slots * kRows) {
            tile(team, a, pair, first, memory);
        }
    }

    template <class Team>
    UNITRANS_DEVICE static void load_queries(Team& team, const Arguments& a, const Pairing& pair,
                                             const Tiles& tiles, int from, int columns) {
        const Problem& p = a.problem;
        const int dim = static_cast<int>(p.head_dim), filled = (columns + 15) / 16 * 16;
        team.sync();
        tiles.other.load(team, p.plan.query, p.num_queries, pair.query_begin, from, columns);
        team.each([&](int t) {
            for (int i = t; i < columns; i += Team::kThreads) {
                const float* s =
                    a.statistics + 3 * (pair.head * a.listed_queries + pair.query_begin + from + i);
                tiles.maximum[i] = s[0];
                tiles.inverse_sum[i] = s[1];
                tiles.delta[i] = s[2];
            }
        });
        team.sync();
        load_rows<T, kDim>(team, tiles.y1, HeadRows<T>(p.q, pair.head), tiles.other.row, columns,
                           filled, dim, a.vectors);
        load_rows<T, kDim>(team, tiles.y2, HeadRows<T>(a.grad_out, pair.head), tiles.other.row,
                           columns, filled, dim, a.vectors);
        team.sync();
        if (p.qk_norm) {
            inverse_norms<T, kDim>(team, tiles.y1, filled, tiles.other_inverse);
            lift_short_rows<T, kDim>(team, tiles.y1, filled, tiles.other_inverse);
            team.sync();
        }
    }

    template <class Team>
    UNITRANS_DEVICE static void tile(Team& team, const Arguments& a, const Pairing& pair, int first,
                                     char* memory) {
        const Problem& p = a.problem;
        const int dim = static_cast<int>(p.head_dim);
        const int count = pair.num_keys - first < kRows ? pair.num_keys - first : kRows;
        const Dropout dropout(a, pair.head);
        const Tiles tiles(memory);
        team.sync();
        tiles.own.load(team, p.plan.key, p.num_keys, pair.key_begin, first, count);
        team.sync();
        load_rows<T, kDim>(team, tiles.x1, HeadRows<T>(p.k, pair.head), tiles.own.row, count, kRows,
                           dim, a.vectors);
        load_rows<T, kDim>(team, tiles.x2, HeadRows<T>(p.v, pair.head), tiles.own.row, count, kRows,
                           dim, a.vectors);
        team.sync();
        if (p.qk_norm) {
            inverse_norms<T, kDim>(team, tiles.x1, kRows, tiles.own_inverse);
            team.sync();  // also where no pair follows, and with it no other barrier
        }

        Numbers<Team, kQueries / 2> s, d;
        Numbers<Team, kDim / 2> dk, dv;
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kDim / 2; ++i) dk[t][i] = dv[t][i] = 0;
        });
        int begin, end;
        pair.reach_of_keys(first, first + count, begin, end);
        for (int from = begin; from < end; from += kQueries) {
            const int columns = end - from < kQueries ? end - from : kQueries;
            load_queries(team, a, pair, tiles, from, columns);
            team.each([&](int t) {
                UNITRANS_UNROLL
                for (int i = 0; i < kQueries / 2; ++i) s[t][i] = d[t][i] = 0;
            });
            multiply_rows<T, kQueries, kDim>(team, s, tiles.x1, tiles.y1,
                                             columns);  // transposed: [keys, queries]
            multiply_rows<T, kQueries, kDim>(team, d, tiles.x2, tiles.y2, columns);
            team.each([&](int t) {
                UNITRANS_UNROLL
                for (int i = 0; i < kQueries / 2; ++i) {
                    const int row = row_of(t, i), column = column_of(t, i);
                    float kept = 0, ds = 0;
                    if (column < columns && pair.reached(from + column, first + row)) {
                        float score = s[t][i] * pair.scale;
                        if (p.qk_norm)
                            score *= tiles.own_inverse[row] * tiles.other_inverse[column];
                        if (pair.bias) {
                            score += pair.bias[pair.entry(tiles.other.place[column],
                                                          tiles.own.place[row])];
                        }
                        const float weight = exponential<T>(score - tiles.maximum[column]) *
                                             tiles.inverse_sum[column];
                        const float keep =
                            dropout.keep(tiles.other.row[column], tiles.own.row[row]);
                        kept = weight * keep;
                        ds = weight * (keep * d[t][i] - tiles.delta[column]);
                        if (p.qk_norm) ds *= tiles.other_inverse[column];
                    }
                    s[t][i] = ds;
                    tiles.product[row * kStride<T, kQueries> + column] = from_float<T>(kept);
                }
            });
            team.sync_warps();
            multiply_matrix<T, kDim, kQueries>(team, dv, tiles.product, tiles.y2, columns);
            team.sync_warps();
            accumulator_to_tile<T, kQueries>(team, s, tiles.product);
            team.sync_warps();
            multiply_matrix<T, kDim, kQueries>(team, dk, tiles.product, tiles.y1, columns);
        }
        if (a.key_parts) {
            store_parts(team, a, pair, first, count, dv, 1, 1.0f);
            store_parts(team, a, pair, first, count, dk, 0, pair.scale);
            return;
        }
        finish_rows<T, kDim>(team, dk, tiles.x1, pair.scale,
                             p.qk_norm ? tiles.own_inverse : nullptr);
        store_rows<T, kDim>(team, tiles.x1, a.dk, pair.head, tiles.own.row, count, dim, a.vectors);
        finish_rows<T, kDim>(team, dv, tiles.x2, 1.0f, nullptr);
        store_rows<T, kDim>(team, tiles.x2, a.dv, pair.head, tiles.own.row, count, dim, a.vectors);
    }

    template <class Team>
    UNITRANS_DEVICE static void store_parts(Team& team, const Arguments& a, const Pairing& pair,
                                            int first, int count, Numbers<Team, kDim / 2>& acc,
                                            int which, float scale) {
        const int64_t dim = a.problem.head_dim;
        float* to = a.key_parts + which * a.listed_keys * a.problem.num_heads * dim;
        team.each([&](int t) {
            UNITRANS_UNROLL
            for (int i = 0; i < kDim / 2; ++i) {
                const int row = row_of(t, i), column = column_of(t, i);
                if (row >= count || column >= dim) continue;
                const int64_t entry = pair.key_begin + first + row;
                to[(entry * a.problem.num_heads + pair.head) * dim + column] = acc[t][i] * scale;
            }
        });
    }
};

// dk and dv of keys that several groups list: the parts of each, in list order, then the norm. A thread has one key and head
// and looks through the whole list: a list sorted by key would be faster where there are many keys, left for a GPU to
// decide. Item: 32 (key, head) pairs.
template <class T>
struct GatherKeysKernel {
    using Arguments = BackwardCall;
    static constexpr int kWarps = 1, kSharedBytes = 0;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        team.each([&](int t) { gather(a, item * Team::kThreads + t); });
    }

    UNITRANS_DEVICE static void gather(const Arguments& a, int64_t index) {
        const Problem& p = a.problem;
        const int64_t heads = p.num_heads, dim = p.head_dim, key = index / heads,
                      head = index % heads;
        if (key >= p.num_keys) return;
        const T* k =
            static_cast<const T*>(p.k.data) + key * p.k.row_stride + head * p.k.head_stride;
        T* dk = static_cast<T*>(a.dk.data) + key * a.dk.row_stride + head * a.dk.head_stride;
        T* dv = static_cast<T*>(a.dv.data) + key * a.dv.row_stride + head * a.dv.head_stride;
        const float* parts = a.key_parts + head * dim;
        const int64_t step = heads * dim, second = a.listed_keys * step;
        const auto sum = [&](const float* from, int64_t c) {
            float total = 0;
            for (int64_t m = 0; m < a.listed_keys; ++m) {
                if (p.plan.key.token_index[m] == key) total += from[m * step + c];
            }
            return total;
        };
        float square = 0, along = 0;
        if (p.qk_norm) {
            for (int64_t c = 0; c < dim; ++c) square += to_float(k[c]) * to_float(k[c]);
        }
        const float norm = sqrtf(square), inverse = 1 / fmaxf(norm, 1e-12f);
        if (p.qk_norm) {
            for (int64_t c = 0; c < dim; ++c) along += sum(parts, c) * to_float(k[c]) * inverse;
        }
        for (int64_t c = 0; c < dim; ++c) {
            float g = sum(parts, c);
            if (p.qk_norm) g = norm < 1e-12f ? 0 : (g - along * to_float(k[c]) * inverse) * inverse;
            dk[c] = from_float<T>(g);
            dv[c] = from_float<T>(sum(parts + second, c));
        }
    }
};

}  // namespace unitrans::cuda
