// From a problem to launches: how many teams, how much memory, in which order. Host code; the launcher is a GPU's stream
// (stream_launcher.cuh) or the emulation of the tests.
#pragma once

#include <algorithm>
#include <limits>

#include "backward.hpp"
#include "unitrans/cuda/attention.hpp"

namespace unitrans::cuda {

struct Request {
    Problem problem;
    Sizes sizes;
    const int64_t* dropout_seed = nullptr;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool in_vectors(const void* data, int64_t row_stride, int64_t head_stride, int64_t size) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_stride * size % 16 == 0 &&
           head_stride * size % 16 == 0;
}

inline Call make_call(const Request& r, int64_t element) {
    Call call;
    call.problem = r.problem;
    call.dropout_seed = r.dropout_seed;
    call.dropout_threshold = static_cast<uint32_t>(r.problem.dropout_p * 0x1p32);
    call.dropout_factor = static_cast<float>(1 / (1 - r.problem.dropout_p));
    const Problem& p = r.problem;
    call.vectors = p.head_dim * element % 16 == 0;
    for (const ConstRows* x : {&p.q, &p.k, &p.v}) {
        call.vectors = call.vectors && in_vectors(x->data, x->row_stride, x->head_stride, element);
    }
    return call;
}

// Groups of up to about 32 tokens, as the mean goes, are served by single warps.
inline int warps_for(int64_t listed, int64_t groups) { return listed <= 32 * groups ? 1 : 4; }

// Teams per (group, head): enough for the largest group, but no more than four times what the mean needs; a larger group
// makes its teams go round. (Otherwise one long group among many small ones would start mostly idle teams.)
inline int32_t slots_for(int64_t listed, int64_t groups, int64_t longest, int64_t rows) {
    const int64_t needed = ceil_div(std::max<int64_t>(longest, 1), rows);
    const int64_t usual = ceil_div(std::max<int64_t>(ceil_div(listed, groups), 1), rows);
    return static_cast<int32_t>(std::min(needed, 4 * usual));
}

template <class Launcher, class T>
void fill(Launcher& launcher, const Rows& rows, int64_t count, int64_t heads, int64_t dim,
          T value) {
    launcher.template run<FillKernel<T>>({rows, count, heads, dim, value},
                                         ceil_div(count * heads * dim, 32));
}

template <class T, int kDim, class Launcher>
void forward(Launcher& launcher, const Request& r, const ForwardOutputs& outputs) {
    const Problem& p = r.problem;
    ForwardCall call;
    static_cast<Call&>(call) = make_call(r, sizeof(T));
    call.out = outputs.out;
    call.lse = static_cast<float*>(outputs.lse);
    call.vectors = call.vectors &&
                   in_vectors(call.out.data, call.out.row_stride, call.out.head_stride, sizeof(T));
    if (r.sizes.listed_queries < p.num_queries) {  // rows that no group lists
        fill(launcher, outputs.out, p.num_queries, p.num_heads, p.head_dim, T{});
        if (call.lse) {
            fill(launcher, Rows{call.lse, p.num_heads, 1}, p.num_queries, p.num_heads, 1,
                 -std::numeric_limits<float>::infinity());
        }
    }
    const int64_t groups = p.plan.num_groups;
    if (groups == 0) return;
    const auto launch = [&]<int kWarps>() {
        call.slots = slots_for(r.sizes.listed_queries, groups, r.sizes.max_group_size, 16 * kWarps);
        launcher.template run<ForwardKernel<T, kDim, kWarps>>(call,
                                                              groups * call.slots * p.num_heads);
    };
    if (warps_for(r.sizes.listed_queries, groups) == 1) {
        launch.template operator()<1>();
    } else {
        launch.template operator()<4>();
    }
}

// Pieces of the workspace of the backward, in one place for its size and its use.
struct BackwardWorkspace {
    size_t bytes = 0;
    int warps = 1;
    int32_t slots = 1;
    float *statistics = nullptr, *scale_parts = nullptr, *key_parts = nullptr;
    int64_t parts = 0;
    BiasPlanes planes;

    BackwardWorkspace(const Problem& p, const Sizes& sizes, bool need_bias, bool need_scale,
                      void* memory) {
        const int64_t groups = p.plan.num_groups, heads = p.num_heads;
        if (groups == 0) return;
        char* at = static_cast<char*>(memory);
        const auto take = [&](int64_t count, int64_t size) {
            char* piece = memory ? at + bytes : nullptr;
            bytes += static_cast<size_t>(ceil_div(count * size, 256) * 256);
            return piece;
        };
        warps = warps_for(sizes.listed_queries, groups);
        slots = slots_for(sizes.listed_queries, groups, sizes.max_group_size, 16 * warps);
        statistics = reinterpret_cast<float*>(take(3 * heads * sizes.listed_queries, 4));
        if (need_bias) {
            // About a thousand teams; partial planes of shared ones take up to 64 MiB, ragged ones as much as d(bias).
            planes.num_chunks = std::clamp<int64_t>(1024 / heads, 1, groups);
            const int64_t plane =
                std::min(p.bias_size, sizes.max_group_size * sizes.max_key_group_size);
            planes.capacity = 2 * p.bias_size + std::min(planes.num_chunks * plane,
                                                         (int64_t{64} << 20) / (4 * heads));
            planes.data = reinterpret_cast<float*>(take(heads * planes.capacity, 4));
            planes.chunks = reinterpret_cast<int64_t*>(take(1 + 3 * planes.num_chunks, 8));
        }
        parts = need_bias ? planes.num_chunks : groups * slots;
        if (need_scale) scale_parts = reinterpret_cast<float*>(take(heads * parts, 4));
        if (p.plan.keys_repeat && p.plan.key.token_index) {
            key_parts =
                reinterpret_cast<float*>(take(2 * sizes.listed_keys * heads * p.head_dim, 4));
        }
    }
};

template <class T, int kDim, class Launcher>
void backward(Launcher& launcher, const Request& r, const BackwardInputs& inputs,
              const Gradients& g, void* memory) {
    const Problem& p = r.problem;
    const int64_t groups = p.plan.num_groups, heads = p.num_heads;
    const BackwardWorkspace w(p, r.sizes, g.dbias != nullptr, g.dscale != nullptr, memory);
    BackwardCall call;
    static_cast<Call&>(call) = make_call(r, sizeof(T));
    call.grad_out = inputs.grad_out;
    call.grad_lse = static_cast<const float*>(inputs.grad_lse);
    call.dq = g.dq;
    call.dk = g.dk;
    call.dv = g.dv;
    call.statistics = w.statistics;
    call.listed_queries = r.sizes.listed_queries;
    call.scale_parts = w.scale_parts;
    call.parts = w.parts;
    call.planes = w.planes;
    call.key_parts = w.key_parts;
    call.listed_keys = r.sizes.listed_keys;
    for (const Rows* x : {&g.dq, &g.dk, &g.dv}) {
        call.vectors =
            call.vectors && in_vectors(x->data, x->row_stride, x->head_stride, sizeof(T));
    }
    call.vectors = call.vectors && in_vectors(call.grad_out.data, call.grad_out.row_stride,
                                              call.grad_out.head_stride, sizeof(T));
    if (r.sizes.listed_queries < p.num_queries)
        fill(launcher, g.dq, p.num_queries, heads, p.head_dim, T{});
    if (!w.key_parts && r.sizes.listed_keys < p.num_keys) {
        fill(launcher, g.dk, p.num_keys, heads, p.head_dim, T{});
        fill(launcher, g.dv, p.num_keys, heads, p.head_dim, T{});
    }
    if (groups == 0) {
        if (g.dbias) launcher.zero(g.dbias, heads * p.bias_size * 4);
        if (g.dscale) launcher.zero(g.dscale, heads * 4);
        return;
    }
    if (g.dbias) {
        launcher.zero(w.planes.data, heads * w.planes.capacity * 4);
        launcher.template run<ChunkKernel>({p, w.planes}, 1);
    }
    call.slots = w.slots;
    if (w.warps == 1) {
        launcher.template run<QueryKernel<T, kDim, 1>>(call, w.parts * heads);
    } else {
        launcher.template run<QueryKernel<T, kDim, 4>>(call, w.parts * heads);
    }
    if (g.dbias) {
        launcher.template run<SumBiasKernel>(
            {w.planes, heads, p.bias_size, static_cast<float*>(g.dbias)},
            ceil_div(heads * p.bias_size, 32));
    }
    if (g.dscale) {
        launcher.template run<SumScaleKernel>(
            {w.scale_parts, w.parts, static_cast<float*>(g.dscale)}, heads);
    }
    const int key_warps = warps_for(r.sizes.listed_keys, groups);
    call.slots = slots_for(r.sizes.listed_keys, groups, r.sizes.max_key_group_size, 16 * key_warps);
    if (key_warps == 1) {
        launcher.template run<KeyKernel<T, kDim, 1>>(call, groups * call.slots * heads);
    } else {
        launcher.template run<KeyKernel<T, kDim, 4>>(call, groups * call.slots * heads);
    }
    if (w.key_parts)
        launcher.template run<GatherKeysKernel<T>>(call, ceil_div(p.num_keys * heads, 32));
}

}  // namespace unitrans::cuda
