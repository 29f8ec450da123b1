// Grouped attention on CPUs: the one function that every model of this library calls, and its
// gradient.
//
// A stream of tokens is cut into groups, lists of tokens that attend among themselves. For head h
// and group g, with i and j counting the queries and the keys of the group:
//
//     S_ij  = scale_h * q_i . k_j + bias[h, offset_g + pos(i) * row_stride_g + pos(j)]
//     P_ij  = exp(S_ij) / sum_j' exp(S_ij'),    j and j' within reach of i
//     lse_i = log sum_j exp(S_ij)
//     out_i = sum_j dropout(P)_ij v_j
//
// A query with nothing to attend to (no keys, nothing within reach, all scores -inf) has out 0,
// lse -inf and gradients 0, and so has a query that no group lists. NaN in a row of scores makes
// that row NaN.
//
// Results are bit-equal from run to run and for any number of threads: work is cut by the plan
// alone. The kernels check nothing: a caller whose lists come from outside asks plan_fault first.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace unitrans {

enum class DType { kFloat32, kBFloat16, kFloat16, kFloat64 };

// Instruction sets the kernels are compiled for, in ascending order. A level is usable if it is
// not above best_isa(). The last one computes with bf16 what is given in bf16: products of two values
// are exact, their sums are fp32; weights are rounded to bf16 before they meet the values.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

// The highest level that this build contains and this processor (and its operating system) can run.
Isa best_isa();
const char* isa_name(Isa isa);

// A [rows, heads, head_dim] array: strides count elements, the last dimension has stride 1.
struct Rows {
    void* data = nullptr;
    int64_t row_stride = 0;
    int64_t head_stride = 0;
};

struct ConstRows {
    const void* data = nullptr;
    int64_t row_stride = 0;
    int64_t head_stride = 0;
};

// Lists of tokens, one group after the other.
struct Groups {
    // [num_groups + 1] first list entry of each group and, last, their number
    const int32_t* cu_seqlens = nullptr;
    // [M] row of each entry in the stream; null: entry m is row m
    const int32_t* token_index = nullptr;
    // [M] place of each entry in its bias plane, strictly ascending in a group; null: 0, 1, ...
    const int32_t* position = nullptr;
    // M, the entries that token_index and position have (without them the rows of the stream)
    int64_t num_entries = 0;
};

struct Plan {
    int64_t num_groups = 0;
    Groups query;
    Groups key;                // the same pointers as `query` when tokens attend among themselves
    bool keys_repeat = false;  // a key row may be listed more than once (true for cross plans)

    // [num_groups] start of the plane of a group, -1: no bias for this group; null: for none
    const int64_t* bias_offset = nullptr;
    // [num_groups] given when bias_offset is
    const int32_t* bias_row_stride = nullptr;
    // [num_groups, 2] (left, right): query i attends to keys i - left .. i + right, counted in list
    // order; -1: unlimited; null: all are
    const int32_t* reach = nullptr;
};

// "Element type" is float, or double when dtype is kFloat64: the type of softmax and of all sums.
struct Problem {
    DType dtype = DType::kFloat32;  // of q, k, v, out and their gradients
    int64_t num_queries = 0;        // Tq, rows of q
    int64_t num_keys = 0;           // Tk, rows of k and v
    int64_t num_heads = 0;          // N
    int64_t head_dim = 0;           // D
    int64_t bias_size = 0;          // P
    Plan plan;

    ConstRows q, k, v;
    const void* bias = nullptr;   // [N, P] contiguous, element type; may be null
    const void* scale = nullptr;  // [N], element type
    bool qk_norm = false;         // l2-normalise every row of q and k first (eps 1e-12)

    double dropout_p = 0.0;  // 0 <= p < 1
    uint64_t dropout_seed = 0;
};

struct ForwardOutputs {
    Rows out;             // [Tq, N, D]
    void* lse = nullptr;  // [Tq, N] contiguous, element type, natural logarithm; may be null
};

// The backward computes the softmax again from q and k, exactly as the forward did: it reads
// neither out nor lse.
struct BackwardInputs {
    ConstRows grad_out;              // [Tq, N, D]
    const void* grad_lse = nullptr;  // [Tq, N] contiguous, element type; may be null
};

struct Gradients {
    Rows dq;                 // [Tq, N, D]
    Rows dk, dv;             // [Tk, N, D]
    void* dbias = nullptr;   // [N, P] contiguous, element type; null: not wanted
    void* dscale = nullptr;  // [N], element type; null: not wanted
};

// Empty, or in words the first list that would make the kernels read or write where they must not, or
// leave a row unwritten: sizes that fall or do not end at M, rows outside the stream, a query listed
// twice, places that do not rise, a reach below -1, planes that end behind the bias. One pass over the
// lists (all but reads of memory is vectorized), whose pointers and lengths must be right.
std::string plan_fault(const Problem& problem);

// Runs body(0) ... body(num_tasks - 1) in any order on any threads, and returns when all are done.
using Parallel =
    std::function<void(int64_t num_tasks, const std::function<void(int64_t task)>& body)>;

// Every element of the outputs is written. Outputs must not overlap inputs or one another. `isa`
// must be usable. The sums of the backward need scratch memory and may throw std::bad_alloc.
void attention_forward(const Problem& problem, const ForwardOutputs& outputs,
                       const Parallel& parallel, Isa isa = best_isa());
void attention_backward(const Problem& problem, const BackwardInputs& inputs,
                        const Gradients& gradients, const Parallel& parallel, Isa isa = best_isa());

}  // namespace unitrans
