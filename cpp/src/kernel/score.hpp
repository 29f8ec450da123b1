// From q and k to the scores of a few queries: products, bias and reach.
#pragma once

#include "pack.hpp"
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
        consecutive_keys = key_position == nullptr || num_keys == 0 ||
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

    // Where the bias of query i and key 0, 1, ... begins in a plane; irregular columns are added by
    // the caller.
    Index bias_row(Index i) const {
        return (query_position ? query_position[i] : i) * bias_row_stride;
    }
    Index first_column(Index key) const { return key_position ? key_position[key] : key; }
};

// scores(m, j) = plane[query first_query + m, key span.first + j], for whole vectors (anything
// behind the last key).
template <class E>
inline void copy_bias(const Group& group, const E* plane, Index first_query, Index rows,
                      KeySpan span, Target<E> scores) {
    constexpr Index n = kLanes<E>;
    const Index count = span.count();
    if (count == 0) return;
    for (Index m = 0; m < rows; ++m) {
        const E* source = plane + group.bias_row(first_query + m);
        E* row = scores.data + m * scores.row;
        if (group.consecutive_keys) {
            source += group.first_column(span.first);
            for_vectors<E>(count, [&](Index j, Index lanes) {
                store(row + j, load_as<E>(source + j, lanes));
            });
        } else {
            const int32_t* columns = group.key_position + span.first;
            for (Index j = 0; j < count; ++j) row[j] = source[columns[j]];
            for (Index j = count; j < round_up(count, n); ++j) row[j] = 0;
        }
    }
}

// Adds gradient(m, j) to the entry of query first_query + m and key span.first + j in the group's
// plane, which begins at values[origin]; a piece of a plane may begin behind its own origin, which
// is negative then.
template <class E>
inline void add_bias_gradient(const Group& group, E* values, Index origin, Index first_query,
                              Index rows, KeySpan span, Target<E> gradient) {
    const Index count = span.count();
    if (count == 0) return;
    for (Index m = 0; m < rows; ++m) {
        const Index begin = origin + group.bias_row(first_query + m);
        const E* row = gradient.data + m * gradient.row;
        if (group.consecutive_keys) {
            E* target = values + begin + group.first_column(span.first);
            for_vectors<E>(count, [&](Index j, Index lanes) {
                store_as<E>(target + j, load_as<E>(target + j, lanes) + load(row + j), lanes);
            });
        } else {
            const int32_t* columns = group.key_position + span.first;
            for (Index j = 0; j < count; ++j) values[begin + columns[j]] += row[j];
        }
    }
}

// Scores of the lanes behind the last key become -inf.
template <class E>
inline void mask_tail(Index rows, KeySpan span, Target<E> scores) {
    constexpr Index n = kLanes<E>;
    const Index whole = span.count() / n * n;
    if (whole == span.count()) return;
    const BitsVec<E> keys = lanes_below<E>(span.count() - whole);
    for (Index m = 0; m < rows; ++m) {
        E* last = scores.data + m * scores.row + whole;
        store(last, select<E>(keys, load(last), broadcast(-kInfinity<E>)));
    }
}

// Scores of keys out of reach become -inf.
template <class E>
inline void mask_reach(const Group& group, Index first_query, Index rows, KeySpan span,
                       Target<E> scores) {
    constexpr Index n = kLanes<E>;
    if (group.left < 0 && group.right < 0) return;
    for (Index m = 0; m < rows; ++m) {
        const Index begin = group.reach_begin(first_query + m) - span.first;
        const Index end = group.reach_end(first_query + m) - span.first;
        E* row = scores.data + m * scores.row;
        for (Index j = 0; j < span.count(); j += n) {
            if (begin <= j && j + n <= end) continue;
            const BitsVec<E> reached = lanes_below<E>(end - j) & ~lanes_below<E>(begin - j);
            store(row + j, select<E>(reached, load(row + j), broadcast(-kInfinity<E>)));
        }
    }
}

// scores(m, j) for `rows` packed queries and the keys of the span, in whole vectors; -inf where
// nothing is attended.
template <class E>
inline void compute_scores(const Group& group, Index first_query, Index rows, KeySpan span,
                           const E* queries, const E* key_panels, const E* bias_plane,
                           Width<E> width, Target<E> scores) {
    if (bias_plane != nullptr) copy_bias(group, bias_plane, first_query, rows, span, scores);
    multiply<E>(rows, span.vectors<E>(), width.dim, {queries, width.padded, 1},
                {key_panels + span.first * width.dim, kLanes<E>, kLanes<E> * width.dim}, scores,
                bias_plane != nullptr);
    mask_tail(rows, span, scores);
    mask_reach(group, first_query, rows, span, scores);
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
