// From q and k to the scores of a few queries: products, bias and reach.
#pragma once

#include "columns.hpp"
#include "operands.hpp"
#include "pack.hpp"
#include "softmax.hpp"
#include "tiles.hpp"
#include "unitrans/attention.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// Keys [first, last) of a group that some query of a block can reach; first is a multiple of the
// lanes.
struct KeySpan {
    Index first, last;
    Index count() const { return last - first; }
    template <class E>
    Index vectors() const {
        return round_up(count(), kLanes<E>) / kLanes<E>;
    }
};

// One group of a plan.
struct Group {
    RowList queries, keys;
    Index num_queries, num_keys;
    const int32_t *query_position, *key_position;  // of the group's first entry; null: 0, 1, ...
    Index bias_offset = -1, bias_row_stride = 0;
    Index left = -1, right = -1;
    bool consecutive_keys;  // positions without gaps

    Group(const Plan& plan, Index g) {
        const Index q0 = plan.query.cu_seqlens[g], k0 = plan.key.cu_seqlens[g];
        num_queries = plan.query.cu_seqlens[g + 1] - q0;
        num_keys = plan.key.cu_seqlens[g + 1] - k0;
        queries = {plan.query.token_index ? plan.query.token_index + q0 : nullptr, q0};
        keys = {plan.key.token_index ? plan.key.token_index + k0 : nullptr, k0};
        query_position = plan.query.position ? plan.query.position + q0 : nullptr;
        key_position = plan.key.position ? plan.key.position + k0 : nullptr;
        consecutive_keys = key_position == nullptr || plan.bias_offset == nullptr ||
                           num_keys == 0 ||
                           key_position[num_keys - 1] - key_position[0] == num_keys - 1;
        if (plan.bias_offset != nullptr) {
            bias_offset = plan.bias_offset[g];
            bias_row_stride = plan.bias_row_stride[g];
        }
        if (plan.reach != nullptr) {
            left = plan.reach[2 * g];
            right = plan.reach[2 * g + 1];
        }
    }

    bool has_reach() const { return left >= 0 || right >= 0; }
    // The keys within reach of query i are [reach_begin(i), reach_end(i)), cut to the group.
    Index reach_begin(Index i) const { return left < 0 ? 0 : maximum<Index>(i - left, 0); }
    Index reach_end(Index i) const {
        return right < 0 ? num_keys : minimum<Index>(i + right + 1, num_keys);
    }

    template <class E>
    KeySpan span(Index first_query, Index queries_in_block) const {
        const Index begin = reach_begin(first_query);
        const Index end = reach_end(first_query + queries_in_block - 1);
        if (begin >= end) return {0, 0};
        return {begin / kLanes<E> * kLanes<E>, end};
    }

    // Where the row of query i begins in a plane.
    Index bias_row(Index i) const {
        return (query_position ? query_position[i] : i) * bias_row_stride;
    }
    Index first_column(Index key) const { return key_position ? key_position[key] : key; }
};

// Where the bias of a few queries begins, key by key; null: there is none.
template <class E>
struct BiasRows {
    const E* row[kTileRows] = {};

    // `plane` may be null. Irregular columns are picked into `staging`, rows of `staging_row`.
    BiasRows(const Group& group, const E* plane, Index first_query, Index rows, KeySpan span,
             const Columns<E>& columns, E* staging, Index staging_row) {
        if (plane == nullptr) return;
        for (Index m = 0; m < rows; ++m) {
            const E* source = plane + group.bias_row(first_query + m);
            if (group.consecutive_keys) {
                row[m] = source + group.first_column(span.first);
            } else {
                columns.pick(source, staging + m * staging_row);
                row[m] = staging + m * staging_row + span.first;
            }
        }
    }
};

// Adds gradient(m, j) to the entry of query first_query + m and key span.first + j in the group's
// plane, which begins at values[origin]; a piece of a plane may begin behind its own origin, which
// is negative then.
template <class E>
inline void add_bias_gradient(const Group& group, E* values, Index origin, Index first_query,
                              Index rows, KeySpan span, const Columns<E>& columns,
                              Target<E> gradient) {
    const Index count = span.count();
    if (count == 0) return;
    E* target[kTileRows];
    for (Index m = 0; m < rows; ++m) {
        target[m] = values + origin + group.bias_row(first_query + m);
        if (group.consecutive_keys) target[m] += group.first_column(span.first);
    }
    if (group.consecutive_keys) {
        // Down the rows, not along them: a load waits for a store to the end of the row before, whose
        // masked vector it overlaps.
        for_vectors<E>(count, [&](Index j, Index lanes) {
            for (Index m = 0; m < rows; ++m) {
                const Vec<E> sum =
                    load_as<E>(target[m] + j, lanes) + load(gradient.data + m * gradient.row + j);
                store_as<E>(target[m] + j, sum, lanes);
            }
        });
        return;
    }
    for (Index m = 0; m < rows; ++m) {
        const E* row = gradient.data + m * gradient.row;
        if (count == group.num_keys) {
            columns.add(row, target[m]);
        } else {
            const int32_t* column = group.key_position + span.first;
            for (Index j = 0; j < count; ++j) target[m][column[j]] += row[j];
        }
    }
}

// Scores of keys out of reach become -inf, and the maxima are those of the others.
template <class E>
inline void mask_reach(const Group& group, Index first_query, Index rows, KeySpan span,
                       Target<E> scores, Vec<E>* maxima) {
    constexpr Index n = kLanes<E>;
    for (Index m = 0; m < rows; ++m) {
        const Index begin = group.reach_begin(first_query + m) - span.first;
        const Index end = group.reach_end(first_query + m) - span.first;
        E* row = scores.data + m * scores.row;
        maxima[m] = broadcast(-kInfinity<E>);
        for (Index j = 0; j < span.count(); j += n) {
            Vec<E> score = load(row + j);
            if (j < begin || end < j + n) {
                const BitsVec<E> reached = lanes_below<E>(end - j) & ~lanes_below<E>(begin - j);
                score = select<E>(reached, score, broadcast(-kInfinity<E>));
                store(row + j, score);
            }
            maxima[m] = max_skipping_nan(score, maxima[m]);
        }
    }
}

// Factors of scores whose operands do not carry them.
template <class E>
struct ScoreFactors {
    const E* row = nullptr;     // of every query of the block; null: 1
    const E* column = nullptr;  // of every key of the group, whole vectors
};

// A tile of scores and the maxima of its lanes. `last`: lanes of the last vector that are keys; the
// others become -inf.
template <class E, int rows, int vectors, class X>
[[gnu::noinline]] void score_tile(Index depth, Left<X> a, Right<X> b, const E* const* bias,
                                  Index first_key, Index last, ScoreFactors<E> factors, Target<E> c,
                                  Vec<E>* maxima) {
    constexpr int n = kLanes<E>;
    constexpr bool from_bias = Operand<E, X>::kScaled;
    Vec<E> sum[rows][vectors];
    const auto bias_of = [&](int m, int v) {
        const E* row = bias[m] + first_key + v * n;
        return v + 1 < vectors || last == n ? load(row) : load_first<Vec<E>>(row, last);
    };
    if (from_bias && bias[0] != nullptr) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[m][v] = bias_of(m, v);
        }
    } else {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[m][v] = Vec<E>{};
        }
    }
    add_products<E, rows, vectors, false>(depth, a, b, sum);
    forget_addresses(c);
    if constexpr (!from_bias) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) {
                Vec<E> factor = load(factors.column + first_key + v * n);
                if (factors.row != nullptr) factor *= factors.row[m];
                sum[m][v] *= factor;
                if (bias[0] != nullptr) sum[m][v] += bias_of(m, v);
            }
        }
    }
    if (last < n) {
        const BitsVec<E> keys = lanes_below<E>(last);
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            sum[m][vectors - 1] = select<E>(keys, sum[m][vectors - 1], broadcast(-kInfinity<E>));
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
        Vec<E> most = maxima[m];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            most = max_skipping_nan(sum[m][v], most);
            store(c.data + m * c.row + v * n, sum[m][v]);
        }
        maxima[m] = most;
    }
}

// The vector behind all others when it has one key.
template <class E, int rows, class X>
[[gnu::always_inline]] inline void score_lone_key(Left<X> a, const X* key, const E* const* bias,
                                                  Index j, ScoreFactors<E> factors, Target<E> c,
                                                  Vec<E>* maxima) {
    E dots[rows];
    dot_rows<E, rows>(a.stride, a, key, dots);
    for (int m = 0; m < rows; ++m) {
        E score = dots[m];
        if (!Operand<E, X>::kScaled) {
            score *=
                factors.row != nullptr ? factors.column[j] * factors.row[m] : factors.column[j];
        }
        if (bias[0] != nullptr) score += bias[m][j];
        Vec<E> vector = broadcast(-kInfinity<E>);
        vector[0] = score;
        store(c.data + m * c.row + j, vector);
        maxima[m] = max_skipping_nan(vector, maxima[m]);
    }
}

// scores(m, j) for `rows` packed queries and the keys of the span, in whole vectors; -inf where
// nothing is attended. Also the maxima, for `softmax`.
template <class E, int rows, class X>
[[gnu::always_inline]] inline void compute_scores(const Group& group, Index first_query,
                                                  KeySpan span, Left<X> queries, KeyPanels<X> keys,
                                                  const BiasRows<E>& bias, Index depth,
                                                  ScoreFactors<E> factors, Target<E> scores,
                                                  SoftmaxState<E>& state) {
    constexpr Index n = kLanes<E>;
    const Index vectors = span.vectors<E>(), last = span.count() - (vectors - 1) * n;
    for (int m = 0; m < rows; ++m) state.maxima[m] = broadcast(-kInfinity<E>);
    if (factors.column != nullptr) factors.column += span.first;
    const bool lone = lone_keys<E>(group.num_keys) > 0 && span.last == group.num_keys;
    for_tiles(vectors - lone, [&](Index first, auto count) {
        const bool at_end = first + count.value == vectors;
        score_tile<E, rows, count.value>(
            depth, queries, Right<X>{keys.panels + (span.first + first * n) * depth, n, n * depth},
            bias.row, first * n, at_end ? last : n, factors,
            Target<E>{scores.data + first * n, scores.row}, state.maxima);
    });
    if (lone) {
        score_lone_key<E, rows>(queries, keys.lone, bias.row, (vectors - 1) * n, factors, scores,
                                state.maxima);
    }
    if (group.has_reach()) {
        mask_reach(group, first_query, rows, span, scores, state.maxima);
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
