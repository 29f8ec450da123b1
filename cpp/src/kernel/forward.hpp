// The forward pass of one task. Per group and head: pack keys and values, then for every few
// queries scores, softmax, the product with the values, and straight to the output. A block of
// queries has all its scores at hand, so the softmax needs no second look.
#pragma once

#include "../work.hpp"
#include "dropout.hpp"
#include "score.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// The rows of head h of an argument.
template <class T>
inline HeadRows<const T> head_rows(const ConstRows& rows, Index h) {
    return {static_cast<const T*>(rows.data) + h * rows.head_stride, rows.row_stride};
}
template <class T>
inline HeadRows<T> head_rows(const Rows& rows, Index h) {
    return {static_cast<T*>(rows.data) + h * rows.head_stride, rows.row_stride};
}

// The bias plane of a group for head h, null if it has none.
template <class E>
inline const E* bias_plane(const Problem& problem, const Group& group, Index h) {
    if (problem.bias == nullptr || group.bias_offset < 0) return nullptr;
    return static_cast<const E*>(problem.bias) + h * problem.bias_size + group.bias_offset;
}

// The largest groups of a task, which its scratch memory must hold.
struct TaskExtent {
    Index queries = 0, keys = 0, columns = 0;  // columns of bias planes that are picked
    TaskExtent(const Plan& plan, const Task& task) {
        for (Index g = task.group_begin; g < task.group_end; ++g) {
            const Group group(plan, g);
            queries = maximum(queries, group.num_queries);
            keys = maximum(keys, group.num_keys);
            if (!group.consecutive_keys) {
                columns = maximum<Index>(columns, group.key_position[group.num_keys - 1] + 1);
            }
        }
    }
};

// Rows that irregular columns of the bias are picked into: whole vectors, and one behind them.
template <class E>
inline Index staging_row(const TaskExtent& extent) {
    return extent.columns == 0 ? 0 : round_up(extent.keys, kLanes<E>) + kLanes<E>;
}

template <class X>
inline KeyPanels<X> take_panels(Arena& arena, Index keys, Index depth, Index row) {
    X* panels = arena.take<X>(keys * depth);
    return {panels, arena.take<X>(row)};
}

template <class T, class E>
struct ForwardScratch {
    using Ops = Operands<T, E>;
    using X = typename Ops::X;

    E *key_rows, *column_factors;  // keys of one head
    KeyPanels<X> keys;
    X* value_rows;
    X *query_rows, *weights;  // one block of queries
    E *query_elements, *scores, *out_rows, *picked_bias;
    E *inverse_norm, *row_factors, *keep;
    Index picked_row;
    Columns<E> columns;
    KeyWords key_words;

    ForwardScratch(Arena& arena, const Problem& problem, const TaskExtent& extent, Width<E> width)
        : picked_row(staging_row<E>(extent)),
          columns(arena, extent.columns),
          key_words(arena, extent.keys) {
        const Index keys = round_up(extent.keys, kLanes<E>);
        key_rows = arena.take<E>(problem.qk_norm ? keys * width.padded : 0);
        column_factors = arena.take<E>(Ops::kPairs ? keys : 0);
        this->keys = take_panels<X>(arena, keys, Ops::depth(width.dim), Ops::row(width));
        value_rows = arena.take<X>(Ops::depth(extent.keys) * width.padded);
        query_rows = arena.take<X>(kTileRows * Ops::row(width));
        query_elements = arena.take<E>(Ops::kPairs ? kTileRows * width.padded : 0);
        weights = arena.take<X>(Ops::kPairs ? kTileRows * keys / 2 : 0);
        scores = arena.take<E>(kTileRows * keys);
        out_rows = arena.take<E>(kTileRows * width.padded);
        picked_bias = arena.take<E>(kTileRows * picked_row);
        inverse_norm = arena.take<E>(maximum<Index>(keys, kTileRows));
        row_factors = arena.take<E>(kTileRows);
        keep = arena.take<E>(keys);
    }
};

// The keys of a group in panels, with zeros up to whole vectors of keys. Elements carry norms (if
// the problem asks for them) and scale, pairs leave both to `column_factors`. `rows` gets the
// elements where norms are asked for.
template <class T, class E, class X>
inline void pack_keys(const Problem& problem, const Group& group, Index h, Width<E> width, E* rows,
                      E* inverse_norm, E* column_factors, KeyPanels<X> panels) {
    using Ops = Operands<T, E>;
    const HeadRows<const T> keys = head_rows<T>(problem.k, h);
    const E scale = static_cast<const E*>(problem.scale)[h];
    const Index padded_keys = round_up(group.num_keys, kLanes<E>);
    if (problem.qk_norm) {
        gather_rows<E>(keys, group.keys, 0, group.num_keys, width, rows);
        clear(rows + group.num_keys * width.padded, (padded_keys - group.num_keys) * width.padded);
        normalize_rows(rows, group.num_keys, width, inverse_norm);
    }
    if constexpr (Ops::kPairs) {
        for (Index j = 0; j < padded_keys; ++j) {
            column_factors[j] =
                scale * (problem.qk_norm && j < group.num_keys ? norm_factor(inverse_norm[j]) : 1);
        }
        Ops::panels(keys, group.keys, group.num_keys, width, scale, panels);
    } else if (problem.qk_norm) {
        const HeadRows<const E> normalised{rows, width.padded};
        Operands<E, E>::panels(normalised, RowList{nullptr, 0}, group.num_keys, width, scale,
                               panels);
    } else {
        Ops::panels(keys, group.keys, group.num_keys, width, scale, panels);
    }
}

// Some queries as rows of A. Where norms are asked for, `elements` (of pairs; else `rows`) gets them
// normalised, and pairs leave the norms to `row_factors`.
template <class T, class E, class X>
inline ScoreFactors<E> load_queries(const Problem& problem, const Group& group, Index h,
                                    Index first, Index count, Width<E> width, X* rows, E* elements,
                                    E* inverse_norm, E* row_factors, const E* column_factors) {
    using Ops = Operands<T, E>;
    const HeadRows<const T> queries = head_rows<T>(problem.q, h);
    Ops::rows(queries, group.queries, first, count, width, rows);
    if constexpr (!Ops::kPairs) {
        if (problem.qk_norm) normalize_rows(rows, count, width, inverse_norm);
        return {};
    } else {
        if (!problem.qk_norm) return {nullptr, column_factors};
        gather_rows<E>(queries, group.queries, first, count, width, elements);
        normalize_rows(elements, count, width, inverse_norm);
        for (Index i = 0; i < count; ++i) row_factors[i] = norm_factor(inverse_norm[i]);
        return {row_factors, column_factors};
    }
}

template <class E>
inline E row_lse(const SoftmaxState<E>& state, Index m) {
    if (state.sum[m] == 0) return -kInfinity<E>;
    return state.max[m] + static_cast<E>(sizeof(E) == 4 ? __builtin_logf(state.sum[m])
                                                        : __builtin_log(state.sum[m]));
}

template <class R>
inline constexpr bool kToWrite = false;
template <>
inline constexpr bool kToWrite<Rows> = true;

// What is asked for while a head is computed, in as many pieces as it has blocks of queries: the rows
// of the next head, or a share of all heads of the next group where those are small. The latter reads
// memory in order, long before it is needed, but into the second-level cache.
class Ahead {
  public:
    Ahead(const Group& group, Index h, Index pieces)
        : group_(group),
          h_(h),
          queries_(share(group.num_queries, pieces)),
          keys_(share(group.num_keys, pieces)) {}

    // `slice`: of the first piece, among `slices` that share the heads [first_head, end_head).
    Ahead(const Group& group, Index first_head, Index end_head, Index slice, Index slices)
        : group_(group),
          h_(first_head),
          heads_(end_head - first_head),
          slice_(slice),
          slices_(slices) {}

    // To read (ConstRows) or to write (Rows).
    template <class T, class R>
    [[gnu::always_inline]] void prefetch_queries(const R& rows, Index dim, Index piece) const {
        prefetch<T>(rows, group_.queries, group_.num_queries, queries_, dim, piece);
    }
    template <class T, class R>
    [[gnu::always_inline]] void prefetch_keys(const R& rows, Index dim, Index piece) const {
        prefetch<T>(rows, group_.keys, group_.num_keys, keys_, dim, piece);
    }

  private:
    static Index share(Index n, Index pieces) {
        return static_cast<uint32_t>(n + pieces - 1) / static_cast<uint32_t>(pieces);
    }

    template <class T, class R>
    [[gnu::always_inline]] void prefetch(const R& rows, const RowList& list, Index count,
                                         Index per_piece, Index dim, Index piece) const {
        const auto head = head_rows<T>(rows, h_);
        if (slices_ == 0) {
            prefetch_rows<kToWrite<R>>(head, list, minimum(piece * per_piece, count),
                                       minimum((piece + 1) * per_piece, count), dim);
            return;
        }
        const Index bytes = ((heads_ - 1) * rows.head_stride + dim) * Index{sizeof(T)};
        const Index lines = (bytes + 63) / 64, total = lines * count;
        const Index per_slice = share(total, slices_), begin = (slice_ + piece) * per_slice;
        if (begin >= total) return;
        Index row = static_cast<uint32_t>(begin) / static_cast<uint32_t>(lines);
        Index line = begin - row * lines;
        const char* data = reinterpret_cast<const char*>(head[list[row]]);
        for (Index left = minimum(per_slice, total - begin); left > 0; --left) {
            __builtin_prefetch(data + line * 64, 0, 2);
            if (++line == lines && left > 1) {
                line = 0;
                data = reinterpret_cast<const char*>(head[list[++row]]);
            }
        }
    }

    const Group& group_;
    Index h_, heads_ = 0, queries_ = 0, keys_ = 0, slice_ = 0, slices_ = 0;
};

// Groups of many heads, each so short that the next one would be asked for too late, and all of a
// task fitting into a part of the second-level cache. Others lose by it.
inline bool is_small(const Problem& problem, const Group& group, Index heads, Index bytes) {
    constexpr Index kRows = 32, kHeads = 8, kBytes = 256 * 1024;
    return group.num_queries <= kRows && group.num_keys <= kRows && heads >= kHeads &&
           (group.num_queries + 2 * group.num_keys) * heads * problem.head_dim * bytes <= kBytes;
}

// One head of a group whose keys and values are packed.
template <class T, class E>
struct ForwardHead {
    const Problem& problem;
    const ForwardOutputs& outputs;
    const Dropout& dropout;
    const ForwardScratch<T, E>& scratch;
    const Group& group;
    Index h;
    Width<E> width;
    const E* bias;  // plane of the group, null: none
    const Ahead& ahead;
};

// Queries [first, first + rows) of a group. What memory is asked for meanwhile is spread over the
// work: a burst of requests would hold up the loads behind it.
template <class T, class E, int rows>
[[gnu::noinline]] void forward_rows(const ForwardHead<T, E>& head, Index first, Index piece) {
    using Ops = Operands<T, E>;
    using X = typename Ops::X;
    const Problem& problem = head.problem;
    const ForwardScratch<T, E>& scratch = head.scratch;
    const Group& group = head.group;
    const Width<E> width = head.width;
    const KeySpan span = group.span<E>(first, rows);
    const Index vectors = span.vectors<E>();
    const Target<E> scores{scratch.scores, vectors * kLanes<E>};

    const HeadRows<T> out = head_rows<T>(head.outputs.out, head.h);
    head.ahead.template prefetch_queries<T>(problem.q, width.dim, piece);
    prefetch_rows<true>(out, group.queries, first, first + rows, width.dim);
    const ScoreFactors<E> factors = load_queries<T>(
        problem, group, head.h, first, rows, width, scratch.query_rows, scratch.query_elements,
        scratch.inverse_norm, scratch.row_factors, scratch.column_factors);
    const BiasRows<E> bias(group, head.bias, first, rows, span, scratch.columns,
                           scratch.picked_bias, scratch.picked_row);
    SoftmaxState<E> state;
    const Index depth = Ops::depth(width.dim);
    compute_scores<E, rows>(group, first, span, Left<X>{scratch.query_rows, Ops::row(width)},
                            scratch.keys, bias, depth, factors, scores, state);
    head.ahead.template prefetch_keys<T>(problem.k, width.dim, piece);
    softmax<E, rows>(vectors, scores, state);
    head.ahead.template prefetch_keys<T>(problem.v, width.dim, piece);
    if (head.dropout.on) {
        for (Index m = 0; m < rows; ++m) {
            scratch.key_words.keep_row(head.dropout, group.queries[first + m], head.h, span,
                                       scratch.keep);
            apply_dropout(vectors, scratch.keep, scores.data + m * scores.row);
        }
    }
    Left<X> weights;
    if constexpr (Ops::kPairs) {
        weights = {scratch.weights, scores.row / 2};
        for (Index m = 0; m < rows; ++m) {
            pair_row(scores.data + m * scores.row, vectors, nullptr,
                     scratch.weights + m * weights.stride);
        }
    } else {
        weights = {scores.data, scores.row};
    }
    multiply_rows<E, rows, false>(
        width.vectors(), Ops::depth(span.count()), weights,
        Right<X>{scratch.value_rows + Ops::depth(span.first) * width.padded, width.padded,
                 kLanes<E>},
        Target<E>{scratch.out_rows, width.padded}, false);

    for (Index m = 0; m < rows; ++m) {
        const Index row = group.queries[first + m];
        store_row(out[row], scratch.out_rows + m * width.padded, width, state.inverse_sum(m));
        if (head.outputs.lse != nullptr) {
            static_cast<E*>(head.outputs.lse)[row * problem.num_heads + head.h] = row_lse(state, m);
        }
    }
}

template <class T, class E>
void forward_task(const Problem& problem, const ForwardOutputs& outputs, const Task& task) {
    const Width<E> width(problem.head_dim);
    const Dropout dropout(problem);
    const TaskExtent extent(problem.plan, task);
    Arena measure;
    ForwardScratch<T, E>(measure, problem, extent, width);
    Arena arena(thread_scratch(measure.used()));
    ForwardScratch<T, E> scratch(arena, problem, extent, width);

    for (Index g = task.group_begin; g < task.group_end; ++g) {
        const Group group(problem.plan, g);
        const Group following(problem.plan, minimum(g + 1, task.group_end - 1));
        const Index begin = task.query_begin;
        const Index queries = minimum(task.query_end, group.num_queries) - begin;
        if (queries <= 0) continue;
        const Pieces blocks(queries, kTileRows);
        const bool small = is_small(problem, following, task.head_end - task.head_begin, sizeof(T));
        if (dropout.on) scratch.key_words.assign(group.keys, group.num_keys);
        if (!group.consecutive_keys) scratch.columns.assign(group.key_position, group.num_keys);
        for (Index h = task.head_begin; h < task.head_end; ++h) {
            pack_keys<T>(problem, group, h, width, scratch.key_rows, scratch.inverse_norm,
                         scratch.column_factors, scratch.keys);
            Operands<T, E>::across(head_rows<T>(problem.v, h), group.keys, 0, group.num_keys, width,
                                   scratch.value_rows);
            const bool more_heads = h + 1 < task.head_end;
            const Ahead ahead = small ? Ahead(following, task.head_begin, task.head_end,
                                              (h - task.head_begin) * blocks.count,
                                              (task.head_end - task.head_begin) * blocks.count)
                                      : Ahead(more_heads ? group : following,
                                              more_heads ? h + 1 : task.head_begin, blocks.count);
            const ForwardHead<T, E> head{
                problem, outputs, dropout, scratch,
                group,   h,       width,   bias_plane<E>(problem, group, h),
                ahead};
            for (Index b = 0; b < blocks.count; ++b) {
                with_rows(blocks.length(b), [&](auto rows) {
                    forward_rows<T, E, rows.value>(head, begin + blocks.begin(b), b);
                });
            }
        }
    }
    trim_thread_scratch();
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
