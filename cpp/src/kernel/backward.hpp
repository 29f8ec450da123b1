// The backward pass of one task. Per group and head: pack keys and values; for blocks of queries
// compute P and dS (softmax again, from q and k), finish dq, add to d(bias) and d(scale), and add
// the block's share to dk and dv, which leave scratch memory when the group is done.
#pragma once

#include "forward.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// P and dS of a block of queries stay in the caches: at most this many elements each.
inline constexpr Index kBlockElements = 12 * 1024;

// Queries per block: as many whole tiles as fit, nearly equal blocks.
template <class E>
inline Index backward_block_rows(Index queries, Index keys) {
    const Index keys_padded = maximum<Index>(round_up(keys, kLanes<E>), kLanes<E>);
    const Index fit = maximum<Index>(kBlockElements / keys_padded, 2 * kTileRows);
    const Index blocks = maximum<Index>((queries + fit - 1) / fit, 1);
    return (queries + blocks - 1) / blocks;
}

template <class T, class E>
struct BackwardScratch {
    using Ops = Operands<T, E>;
    using X = typename Ops::X;

    // Keys of one head. Elements of rows of A and of B are the same memory, pairs are not.
    E *key_elements, *key_inverse_norm, *column_factors, *key_factors, *dk_rows, *dv_rows;
    KeyPanels<X> keys, values;
    X* key_across;
    // One block of queries.
    E *query_elements, *query_inverse_norm, *row_factors, *probabilities, *gradient;
    X *query_rows, *query_across, *grad_out_rows, *grad_out_across, *pairs;
    // One tile.
    E *dq_rows, *keep, *picked_bias;
    X* weights;
    E *dk_sum, *dv_sum;  // all keys of the stream, one head; only for keys that repeat
    Index picked_row;
    Columns<E> columns;
    KeyWords key_words;

    BackwardScratch(Arena& arena, const Problem& problem, const TaskExtent& extent, Width<E> width)
        : picked_row(staging_row<E>(extent)),
          columns(arena, extent.columns),
          key_words(arena, extent.keys) {
        const Index keys = round_up(extent.keys, kLanes<E>);
        // Fewer keys make longer blocks, never longer ones than the longest group.
        const Index block = minimum(extent.queries, kBlockElements / kLanes<E>);
        const Index block_elements = maximum(kBlockElements, 2 * kTileRows * keys);
        const Index of_pairs = Ops::kPairs ? 1 : 0;
        key_inverse_norm = arena.take<E>(keys);
        dk_rows = arena.take<E>(keys * width.padded);
        dv_rows = arena.take<E>(keys * width.padded);
        this->keys = take_panels<X>(arena, keys, Ops::depth(width.dim), Ops::row(width));
        values = take_panels<X>(arena, keys, Ops::depth(width.dim), Ops::row(width));
        query_inverse_norm = arena.take<E>(block);
        query_rows = arena.take<X>(block * Ops::row(width));
        grad_out_rows = arena.take<X>(block * Ops::row(width));
        probabilities = arena.take<E>(block_elements);
        gradient = arena.take<E>(block_elements);
        dq_rows = arena.take<E>(kTileRows * width.padded);
        keep = arena.take<E>(keys);
        picked_bias = arena.take<E>(kTileRows * picked_row);
        if constexpr (Ops::kPairs) {
            key_elements = arena.take<E>(keys * width.padded);
            query_elements = arena.take<E>(block * width.padded);
            key_across = arena.take<X>(Ops::depth(keys) * width.padded);
            query_across = arena.take<X>(Ops::depth(block) * width.padded);
            grad_out_across = arena.take<X>(Ops::depth(block) * width.padded);
        } else {
            key_across = key_elements = arena.take<E>(keys * width.padded);
            query_across = query_elements = query_rows;
            grad_out_across = grad_out_rows;
        }
        column_factors = arena.take<E>(of_pairs * keys);
        key_factors = arena.take<E>(of_pairs * keys);
        row_factors = arena.take<E>(of_pairs * block);
        // An odd block has a last pair of one row.
        pairs = arena.take<X>(of_pairs * (block_elements / 2 + keys));
        weights = arena.take<X>(of_pairs * kTileRows * keys / 2);
        const Index sums = problem.plan.keys_repeat ? problem.num_keys * width.padded : 0;
        dk_sum = arena.take<E>(sums);
        dv_sum = arena.take<E>(sums);
    }
};

// What stays the same for all blocks of one head of one group.
template <class T, class E>
struct BackwardHead {
    const Problem& problem;
    const BackwardInputs& inputs;
    const Gradients& gradients;
    const BackwardTask& task;
    const Dropout& dropout;
    const BackwardScratch<T, E>& scratch;
    const Group& group;
    Index h;
    Width<E> width;
    E scale;
    const E* bias;              // plane of the group, null: none
    const Ahead &ahead, &here;  // of this head: where it writes

    bool wants_query_elements() const { return problem.qk_norm || task.dscale != nullptr; }
    bool wants_dbias() const { return task.dbias.data != nullptr && group.bias_offset >= 0; }
    // Where the group's plane begins in the d(bias) of the task.
    Index dbias_origin() const {
        return h * task.dbias.head_stride + group.bias_offset - task.dbias.first;
    }
};

// Scores of a tile were turned into exp(scores - max), `gradient` is that of dropout(P): both become
// what `softmax_gradient` says.
template <class T, class E, int rows>
[[gnu::always_inline]] inline void gradient_rows(const BackwardHead<T, E>& head, Index first,
                                                 KeySpan span, const SoftmaxState<E>& state,
                                                 Target<E> probabilities, Target<E> gradient) {
    const BackwardScratch<T, E>& scratch = head.scratch;
    const RowList& queries = head.group.queries;
    const Index vectors = span.vectors<E>();
    const auto* grad_lse = static_cast<const E*>(head.inputs.grad_lse);
    E inverse_sum[rows], dlse[rows];
    bool all_attend = true;
    for (int m = 0; m < rows; ++m) {
        inverse_sum[m] = state.inverse_sum(m);
        dlse[m] = 0;
        if (grad_lse != nullptr) {
            dlse[m] = grad_lse[queries[first + m] * head.problem.num_heads + head.h];
        }
        all_attend = all_attend && state.sum[m] != 0;
    }
    if (head.dropout.on) {
        for (int m = 0; m < rows; ++m) {
            scratch.key_words.keep_row(head.dropout, queries[first + m], head.h, span,
                                       scratch.keep);
            softmax_gradient<E, 1, true>(vectors, inverse_sum + m, dlse + m,
                                         {probabilities.data + m * probabilities.row, 0},
                                         {gradient.data + m * gradient.row, 0}, scratch.keep);
        }
    } else {
        softmax_gradient<E, rows, false>(vectors, inverse_sum, dlse, probabilities, gradient,
                                         nullptr);
    }
    if (all_attend) return;
    for (int m = 0; m < rows; ++m) {  // attends to nothing: no gradient, whatever comes from above
        if (state.sum[m] != 0) continue;
        clear(probabilities.data + m * probabilities.row, vectors * kLanes<E>);
        clear(gradient.data + m * gradient.row, vectors * kLanes<E>);
    }
}

// P (dropout applied) and dS of queries [first, first + rows), their dq, and their share of d(bias)
// and d(scale). `local` is the place of the first of them in the block. Memory is asked for in small
// portions: a piece of what the next head reads and of what this one writes.
template <class T, class E, int rows>
[[gnu::noinline]] void backward_rows(const BackwardHead<T, E>& head, Index first, Index local,
                                     Index piece, KeySpan span, Target<E> probabilities,
                                     Target<E> gradient) {
    using Ops = Operands<T, E>;
    using X = typename Ops::X;
    const Problem& problem = head.problem;
    const BackwardScratch<T, E>& scratch = head.scratch;
    const Group& group = head.group;
    const Width<E> width = head.width;
    const Index h = head.h, vectors = span.vectors<E>(), depth = Ops::depth(width.dim);

    const Ahead &ahead = head.ahead, &here = head.here;
    ahead.prefetch_queries<T>(problem.q, width.dim, piece);
    ahead.prefetch_keys<T>(problem.k, width.dim, piece);
    const BiasRows<E> bias(group, head.bias, first, rows, span, scratch.columns,
                           scratch.picked_bias, scratch.picked_row);
    SoftmaxState<E> state;
    ScoreFactors<E> factors;
    if (Ops::kPairs) {
        factors = {problem.qk_norm ? scratch.row_factors + local : nullptr, scratch.column_factors};
    }
    compute_scores<E, rows>(group, first, span,
                            Left<X>{scratch.query_rows + local * Ops::row(width), Ops::row(width)},
                            scratch.keys, bias, depth, factors, probabilities, state);
    ahead.prefetch_keys<T>(problem.v, width.dim, piece);
    softmax<E, rows>(vectors, probabilities, state);
    ahead.prefetch_queries<T>(head.inputs.grad_out, width.dim, piece);
    const Left<X> grad_out{scratch.grad_out_rows + local * Ops::row(width), Ops::row(width)};
    const bool lone = lone_keys<E>(group.num_keys) > 0 && span.last == group.num_keys;
    multiply_rows<E, rows, false>(
        vectors - lone, depth, grad_out,
        Right<X>{scratch.values.panels + span.first * depth, kLanes<E>, kLanes<E> * depth},
        gradient, false);
    if (lone) {
        E dots[rows];
        dot_rows<E, rows>(grad_out.stride, grad_out, scratch.values.lone, dots);
        for (int m = 0; m < rows; ++m) {
            Vec<E> vector{};
            vector[0] = dots[m];
            store(gradient.data + m * gradient.row + (vectors - 1) * kLanes<E>, vector);
        }
    }
    here.prefetch_queries<T>(head.gradients.dq, width.dim, piece);
    gradient_rows<T, E, rows>(head, first, span, state, probabilities, gradient);
    here.prefetch_keys<T>(head.gradients.dk, width.dim, piece);
    if (head.wants_dbias()) {
        add_bias_gradient(group, static_cast<E*>(head.task.dbias.data), head.dbias_origin(), first,
                          rows, span, scratch.columns, gradient);
    }

    Left<X> weights;
    if constexpr (Ops::kPairs) {
        weights = {scratch.weights, gradient.row / 2};
        for (Index m = 0; m < rows; ++m) {
            pair_row(gradient.data + m * gradient.row, vectors,
                     problem.qk_norm ? scratch.key_factors + span.first : nullptr,
                     scratch.weights + m * weights.stride);
        }
    } else {
        weights = {gradient.data, gradient.row};
    }
    multiply_rows<E, rows, false>(
        width.vectors(), Ops::depth(span.count()), weights,
        Right<X>{scratch.key_across + Ops::depth(span.first) * width.padded, width.padded,
                 kLanes<E>},
        Target<E>{scratch.dq_rows, width.padded}, false);
    here.prefetch_keys<T>(head.gradients.dv, width.dim, piece);
    const HeadRows<T> dq = head_rows<T>(head.gradients.dq, h);
    for (Index m = 0; m < rows; ++m) {
        E* row = scratch.dq_rows + m * width.padded;
        const E* query = head.wants_query_elements()
                             ? scratch.query_elements + (local + m) * width.padded
                             : nullptr;
        if (head.task.dscale != nullptr) {
            head.task.dscale[h] += static_cast<double>(dot(query, row, width.padded));
        }
        if (problem.qk_norm) {
            normalize_gradient(row, query, scratch.query_inverse_norm[local + m], width);
        }
        store_row(dq[group.queries[first + m]], row, width, head.scale);
    }
}

// Queries [first, first + rows): everything about them, and their share of dk and dv.
template <class T, class E>
void backward_block(const BackwardHead<T, E>& head, Index& piece, Index first, Index rows) {
    using Ops = Operands<T, E>;
    using X = typename Ops::X;
    const BackwardScratch<T, E>& scratch = head.scratch;
    const Problem& problem = head.problem;
    const Width<E> width = head.width;
    const RowList& queries = head.group.queries;
    const HeadRows<const T> grad_out = head_rows<T>(head.inputs.grad_out, head.h);
    load_queries<T>(problem, head.group, head.h, first, rows, width, scratch.query_rows,
                    scratch.query_elements, scratch.query_inverse_norm, scratch.row_factors,
                    scratch.column_factors);
    Ops::rows(grad_out, queries, first, rows, width, scratch.grad_out_rows);
    if constexpr (Ops::kPairs) {
        const HeadRows<const T> q = head_rows<T>(problem.q, head.h);
        Ops::across(q, queries, first, rows, width, scratch.query_across);
        Ops::across(grad_out, queries, first, rows, width, scratch.grad_out_across);
        if (head.wants_query_elements() && !problem.qk_norm) {
            gather_rows<E>(q, queries, first, rows, width, scratch.query_elements);
        }
    }

    const KeySpan span = head.group.template span<E>(first, rows);
    const Index row_length = span.vectors<E>() * kLanes<E>;
    const Pieces tiles(rows, kTileRows);
    for (Index t = 0; t < tiles.count; ++t) {
        const Index local = tiles.begin(t);
        with_rows(tiles.length(t), [&](auto count) {
            backward_rows<T, E, count.value>(
                head, first + local, local, piece, span,
                {scratch.probabilities + local * row_length, row_length},
                {scratch.gradient + local * row_length, row_length});
        });
        ++piece;
    }
    // The sums over the queries of the block, for every key. The first block has nothing to add to.
    const bool more = first > 0 || head.group.has_reach();
    const auto add = [&](const E* weights, const E* factors, const X* right, E* sums) {
        Left<X> left;
        if constexpr (Ops::kPairs) {
            pair_rows(weights, rows, row_length, factors, scratch.pairs);
            left = {scratch.pairs, row_length};
        } else {
            left = {weights, row_length};
        }
        multiply<E, true>(span.count(), width.vectors(), Ops::depth(rows), left,
                          Right<X>{right, width.padded, kLanes<E>},
                          Target<E>{sums + span.first * width.padded, width.padded}, more);
    };
    add(scratch.probabilities, nullptr, scratch.grad_out_across, scratch.dv_rows);
    add(scratch.gradient, problem.qk_norm ? scratch.row_factors : nullptr, scratch.query_across,
        scratch.dk_rows);
}

template <class E>
inline void add_row(E* sum, const E* row, Width<E> width, E factor) {
    for (Index c = 0; c < width.padded; c += kLanes<E>) {
        store(sum + c, load(sum + c) + load(row + c) * factor);
    }
}

// dk and dv of a group: to their places, or onto the sums of keys that repeat.
template <class T, class E>
void store_key_gradients(const BackwardHead<T, E>& head) {
    const BackwardScratch<T, E>& scratch = head.scratch;
    const Width<E> width = head.width;
    const HeadRows<T> dk = head_rows<T>(head.gradients.dk, head.h);
    const HeadRows<T> dv = head_rows<T>(head.gradients.dv, head.h);
    for (Index j = 0; j < head.group.num_keys; ++j) {
        const Index row = head.group.keys[j];
        E* dk_row = scratch.dk_rows + j * width.padded;
        E* dv_row = scratch.dv_rows + j * width.padded;
        if (head.problem.qk_norm) {
            normalize_gradient(dk_row, scratch.key_elements + j * width.padded,
                               scratch.key_inverse_norm[j], width);
        }
        if (head.problem.plan.keys_repeat) {
            add_row(scratch.dk_sum + row * width.padded, dk_row, width, head.scale);
            add_row(scratch.dv_sum + row * width.padded, dv_row, width, E{1});
        } else {
            store_row(dk[row], dk_row, width, head.scale);
            store_row(dv[row], dv_row, width, E{1});
        }
    }
}

template <class T, class E>
void backward_head(const BackwardHead<T, E>& head) {
    const BackwardScratch<T, E>& scratch = head.scratch;
    const Group& group = head.group;
    const Width<E> width = head.width;
    const Index padded = round_up(group.num_keys, kLanes<E>) * width.padded;

    using Ops = Operands<T, E>;
    const HeadRows<const T> keys = head_rows<T>(head.problem.k, head.h);
    pack_keys<T>(head.problem, group, head.h, width, scratch.key_elements, scratch.key_inverse_norm,
                 scratch.column_factors, scratch.keys);
    if (Ops::kPairs && head.problem.qk_norm) {
        for (Index j = 0; j < round_up(group.num_keys, kLanes<E>); ++j) {
            scratch.key_factors[j] =
                j < group.num_keys ? norm_factor(scratch.key_inverse_norm[j]) : 0;
        }
    }
    if (Ops::kPairs || !head.problem.qk_norm) {
        Ops::across(keys, group.keys, 0, group.num_keys, width, scratch.key_across);
    }
    Ops::panels(head_rows<T>(head.problem.v, head.h), group.keys, group.num_keys, width, E{1},
                scratch.values);
    if (group.has_reach() || group.num_queries == 0) {
        clear(scratch.dv_rows, padded);
        clear(scratch.dk_rows, padded);
    }

    const Index step = backward_block_rows<E>(group.num_queries, group.num_keys);
    Index piece = 0;
    for (Index first = 0; first < group.num_queries; first += step) {
        backward_block<T>(head, piece, first, minimum(step, group.num_queries - first));
    }
    store_key_gradients<T>(head);
}

// The sums of keys that repeat, for one head, to dk and dv: also zeros for keys that no group
// lists.
template <class T, class E>
void store_key_sums(const Problem& problem, const Gradients& gradients, Index h, Width<E> width,
                    const BackwardScratch<T, E>& scratch) {
    const HeadRows<T> dk = head_rows<T>(gradients.dk, h), dv = head_rows<T>(gradients.dv, h);
    for (Index row = 0; row < problem.num_keys; ++row) {
        store_row(dk[row], scratch.dk_sum + row * width.padded, width, E{1});
        store_row(dv[row], scratch.dv_sum + row * width.padded, width, E{1});
    }
}

template <class E>
inline void clear_bias_gradient(const BiasTarget& dbias, Index head_begin, Index head_end) {
    if (dbias.data == nullptr) return;
    for (Index h = head_begin; h < head_end; ++h) {
        E* plane = static_cast<E*>(dbias.data) + h * dbias.head_stride;
        clear(plane + (dbias.clear_begin - dbias.first), dbias.clear_end - dbias.clear_begin);
    }
}

template <class T, class E>
void backward_task(const Problem& problem, const BackwardInputs& inputs, const Gradients& gradients,
                   const BackwardTask& backward) {
    const Task& task = backward.task;
    const Width<E> width(problem.head_dim);
    const Dropout dropout(problem);
    const TaskExtent extent(problem.plan, task);
    Arena measure;
    BackwardScratch<T, E>(measure, problem, extent, width);
    Arena arena(thread_scratch(measure.used()));
    BackwardScratch<T, E> scratch(arena, problem, extent, width);
    const bool repeat = problem.plan.keys_repeat;

    clear_bias_gradient<E>(backward.dbias, task.head_begin, task.head_end);
    const auto start = [&](const Group& group) {
        if (dropout.on) scratch.key_words.assign(group.keys, group.num_keys);
        if (!group.consecutive_keys) scratch.columns.assign(group.key_position, group.num_keys);
    };
    const auto run = [&](const Group& group, Index h, const Group& next, Index next_h) {
        const E scale = static_cast<const E*>(problem.scale)[h];
        // Not more pieces than there will be tiles.
        const Index pieces = maximum<Index>(group.num_queries / kTileRows, 1);
        const Index heads = task.head_end - task.head_begin;
        const bool small = !repeat && is_small(problem, next, heads, sizeof(T));
        const Ahead ahead = small ? Ahead(next, task.head_begin, task.head_end,
                                          (h - task.head_begin) * pieces, heads * pieces)
                                  : Ahead(next, next_h, pieces);
        const Ahead here(group, h, pieces);
        backward_head<T>(BackwardHead<T, E>{problem, inputs, gradients, backward, dropout, scratch,
                                            group, h, width, scale,
                                            bias_plane<E>(problem, group, h), ahead, here});
    };
    const Index last_group = task.group_end - 1, last_head = task.head_end - 1;
    if (repeat) {  // a task has all groups: head by head, so that the sums are those of one head
        for (Index h = task.head_begin; h < task.head_end; ++h) {
            clear(scratch.dk_sum, problem.num_keys * width.padded);
            clear(scratch.dv_sum, problem.num_keys * width.padded);
            for (Index g = task.group_begin; g < task.group_end; ++g) {
                const Group group(problem.plan, g);
                start(group);
                run(group, h, Group(problem.plan, minimum(g + 1, last_group)), h);
            }
            store_key_sums<T>(problem, gradients, h, width, scratch);
        }
    } else {  // group by group: its rows of all heads lie side by side
        for (Index g = task.group_begin; g < task.group_end; ++g) {
            const Group group(problem.plan, g);
            start(group);
            const Group following(problem.plan, minimum(g + 1, last_group));
            const bool small =
                is_small(problem, following, last_head + 1 - task.head_begin, sizeof(T));
            for (Index h = task.head_begin; h < last_head; ++h) {
                run(group, h, small ? following : group, h + 1);
            }
            run(group, last_head, following, task.head_begin);
        }
    }
    trim_thread_scratch();
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
