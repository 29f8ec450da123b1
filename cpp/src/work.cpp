#include "work.hpp"

#include <algorithm>

namespace unitrans {
namespace {

constexpr int64_t kForwardTasks = 64;
constexpr int64_t kBackwardTasks = 64;
constexpr int64_t kMaxPartialPlanes = 16;
// Tasks below this many multiplications (times head_dim) cost more to hand out than to do.
constexpr int64_t kMinTaskCost = 1 << 13;
// Work per listed token that does not grow with the group: packing rows.
constexpr int64_t kTokenCost = 16;
// A long group is not cut into fewer queries than this: every piece packs all keys again.
constexpr int64_t kMinTaskQueries = 96;

int64_t query_count(const Plan& plan, int64_t g) {
    return plan.query.cu_seqlens[g + 1] - plan.query.cu_seqlens[g];
}
int64_t key_count(const Plan& plan, int64_t g) {
    return plan.key.cu_seqlens[g + 1] - plan.key.cu_seqlens[g];
}

// Of one head.
int64_t group_cost(const Plan& plan, int64_t g) {
    const int64_t queries = query_count(plan, g), keys = key_count(plan, g);
    return queries * keys + kTokenCost * (queries + keys + 1);
}

int64_t total_cost(const Plan& plan) {
    int64_t cost = 0;
    for (int64_t g = 0; g < plan.num_groups; ++g) cost += group_cost(plan, g);
    return cost;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One group that is more than a task: cut by heads, then by queries.
void split_group(const Problem& problem, int64_t g, int64_t task_cost, std::vector<Task>& tasks) {
    const int64_t heads = problem.num_heads, queries = query_count(problem.plan, g);
    const int64_t pieces = divide_up(group_cost(problem.plan, g) * heads, task_cost);
    const int64_t head_blocks = std::min(heads, pieces);
    const int64_t query_blocks = std::clamp<int64_t>(
        pieces / head_blocks, 1, std::max<int64_t>(1, queries / kMinTaskQueries));
    for (int64_t h = 0; h < head_blocks; ++h) {
        for (int64_t i = 0; i < query_blocks; ++i) {
            tasks.push_back({g, g + 1, heads * h / head_blocks, heads * (h + 1) / head_blocks,
                             queries * i / query_blocks, queries * (i + 1) / query_blocks});
        }
    }
}

// Cuts the groups into at most `count` chunks of nearly equal cost.
std::vector<Chunk> cut_groups(const Plan& plan, int64_t count) {
    std::vector<Chunk> chunks;
    const int64_t total = total_cost(plan);
    int64_t begin = 0, cost = 0;
    for (int64_t g = 0; g < plan.num_groups; ++g) {
        cost += group_cost(plan, g);
        const int64_t done = static_cast<int64_t>(chunks.size()) + 1;
        if (cost * count >= total * done || g + 1 == plan.num_groups) {
            chunks.push_back({begin, g + 1, 0, 0});
            begin = g + 1;
        }
    }
    return chunks;
}

// The entries of a bias plane that the groups of a chunk look up.
void find_bias_range(const Plan& plan, Chunk& chunk) {
    bool any = false;
    for (int64_t g = chunk.group_begin; g < chunk.group_end; ++g) {
        const int64_t offset = plan.bias_offset[g], stride = plan.bias_row_stride[g];
        const int64_t q0 = plan.query.cu_seqlens[g], k0 = plan.key.cu_seqlens[g];
        const int64_t queries = query_count(plan, g), keys = key_count(plan, g);
        if (offset < 0 || queries == 0 || keys == 0) continue;
        const int32_t *q_pos = plan.query.position, *k_pos = plan.key.position;
        const int64_t first = (q_pos ? q_pos[q0] : 0) * stride + (k_pos ? k_pos[k0] : 0);
        const int64_t last = (q_pos ? q_pos[q0 + queries - 1] : queries - 1) * stride +
                             (k_pos ? k_pos[k0 + keys - 1] : keys - 1);
        chunk.bias_begin = any ? std::min(chunk.bias_begin, offset + first) : offset + first;
        chunk.bias_end = any ? std::max(chunk.bias_end, offset + last + 1) : offset + last + 1;
        any = true;
    }
}

bool find_bias_ranges(const Plan& plan, std::vector<Chunk>& chunks) {
    bool ascending = true;
    int64_t end = 0;
    for (Chunk& chunk : chunks) {
        find_bias_range(plan, chunk);
        if (chunk.bias_begin == chunk.bias_end) continue;
        ascending = ascending && chunk.bias_begin >= end;
        end = chunk.bias_end;
    }
    return ascending;
}

// Partial planes take no more memory than q, k and v do.
int64_t partial_plane_count(const Problem& problem) {
    const int64_t tokens = problem.num_queries + 2 * problem.num_keys;
    const int64_t planes = tokens * problem.head_dim / std::max<int64_t>(problem.bias_size, 1);
    return std::clamp<int64_t>(planes, 1, kMaxPartialPlanes);
}

}  // namespace

std::vector<Task> forward_tasks(const Problem& problem) {
    const Plan& plan = problem.plan;
    const int64_t heads = problem.num_heads;
    const int64_t task_cost =
        std::max(kMinTaskCost, divide_up(total_cost(plan) * heads, kForwardTasks));
    std::vector<Task> tasks;
    int64_t begin = 0, cost = 0;
    const auto close = [&](int64_t end) {
        if (begin < end) tasks.push_back({begin, end, 0, heads, 0, problem.num_queries});
        begin = end;
        cost = 0;
    };
    for (int64_t g = 0; g < plan.num_groups; ++g) {
        const int64_t own = group_cost(plan, g) * heads;
        if (own > task_cost) {
            close(g);
            split_group(problem, g, task_cost, tasks);
            begin = g + 1;
            continue;
        }
        cost += own;
        if (cost >= task_cost) close(g + 1);
    }
    close(plan.num_groups);
    return tasks;
}

BackwardSplit split_backward(const Problem& problem, bool wants_dbias) {
    const Plan& plan = problem.plan;
    const int64_t heads = problem.num_heads;
    const int64_t wanted =
        std::clamp<int64_t>(total_cost(plan) * heads / kMinTaskCost, 1, kBackwardTasks);
    BackwardSplit split;
    // Repeated keys are summed in the order of the groups: one chunk, a task per head.
    const int64_t chunks = plan.keys_repeat ? 1 : std::min(wanted, plan.num_groups);
    split.chunks = cut_groups(plan, chunks);
    if (wants_dbias && plan.bias_offset != nullptr) {
        split.disjoint_bias = find_bias_ranges(plan, split.chunks);
        if (!split.disjoint_bias) {
            // Heads have planes of their own: cut by heads before partial planes are made.
            const int64_t by_heads = divide_up(wanted, heads);
            split.chunks =
                cut_groups(plan, std::min({chunks, by_heads, partial_plane_count(problem)}));
            split.disjoint_bias = find_bias_ranges(plan, split.chunks);
        }
    }
    const int64_t made = std::max<int64_t>(1, static_cast<int64_t>(split.chunks.size()));
    split.head_blocks = plan.keys_repeat ? heads : std::min(heads, divide_up(wanted, made));
    return split;
}

}  // namespace unitrans
