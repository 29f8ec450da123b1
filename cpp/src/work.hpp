// Cutting a problem into tasks. The cut depends on the problem alone, never on the number of
// threads.
#pragma once

#include <cstdint>
#include <vector>

#include "unitrans/attention.hpp"

namespace unitrans {

// Some groups, some heads, and of every group the queries [query_begin, query_end) (past the end:
// all that follow).
struct Task {
    int64_t group_begin, group_end;
    int64_t head_begin, head_end;
    int64_t query_begin, query_end;
};

// The piece of d(bias) that a backward task adds to: entry x of head h is data[h * head_stride + x
// - first]. The task first clears the entries [clear_begin, clear_end) of its heads.
struct BiasTarget {
    void* data = nullptr;  // element type; null: d(bias) is not wanted
    int64_t head_stride = 0;
    int64_t first = 0;
    int64_t clear_begin = 0, clear_end = 0;
};

struct BackwardTask {
    Task task;
    BiasTarget dbias;
    double* dscale = nullptr;  // [N], the task adds to its heads; null: not wanted
};

// Groups [begin, end) that the backward processes in order, and the entries of d(bias) they touch.
struct Chunk {
    int64_t group_begin, group_end;
    int64_t bias_begin, bias_end;  // equal: none
};

std::vector<Task> forward_tasks(const Problem& problem);

struct BackwardSplit {
    std::vector<Chunk> chunks;
    int64_t head_blocks = 1;
    // Chunks touch disjoint entries of d(bias), in ascending order: no partial planes are needed.
    bool disjoint_bias = true;
};

// Group sums of one chunk are done in order, so partial planes (one per chunk when chunks share
// entries of d(bias)) number at most 16.
BackwardSplit split_backward(const Problem& problem, bool wants_dbias);

}  // namespace unitrans
