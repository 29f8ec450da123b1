// The two entry points: cut the work, hand it to the kernels of the chosen instruction set, write
// what no task writes, and add up what several tasks summed.
#include "unitrans/attention.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "kernels.hpp"
#include "scratch.hpp"
#include "work.hpp"

namespace unitrans {
namespace {

int64_t storage_bytes(DType dtype) {
    switch (dtype) {
        case DType::kFloat32:
            return 4;
        case DType::kBFloat16:
        case DType::kFloat16:
            return 2;
        case DType::kFloat64:
            return 8;
    }
    return 0;
}

const Kernels& kernels_of(Isa isa) {
    const Kernels* kernels = find_kernels(isa);
    assert(kernels != nullptr && isa <= best_isa());
    return *kernels;
}

// Stream rows that no group lists. Rows listed at most once are all listed if there are as many
// entries as rows.
std::vector<int64_t> unlisted_rows(const Groups& groups, int64_t num_groups, int64_t num_rows,
                                   bool repeat) {
    const int64_t entries = groups.cu_seqlens[num_groups];
    std::vector<int64_t> rows;
    if (entries == num_rows && (!repeat || groups.token_index == nullptr)) return rows;
    std::vector<char> listed(static_cast<size_t>(num_rows), 0);
    for (int64_t m = 0; m < entries; ++m)
        listed[groups.token_index ? groups.token_index[m] : m] = 1;
    for (int64_t row = 0; row < num_rows; ++row) {
        if (!listed[row]) rows.push_back(row);
    }
    return rows;
}

void clear_rows(const Problem& problem, const Rows& rows, const std::vector<int64_t>& which) {
    const int64_t bytes = storage_bytes(problem.dtype);
    for (const int64_t row : which) {
        for (int64_t h = 0; h < problem.num_heads; ++h) {
            const int64_t offset = row * rows.row_stride + h * rows.head_stride;
            std::memset(static_cast<char*>(rows.data) + offset * bytes, 0,
                        static_cast<size_t>(problem.head_dim * bytes));
        }
    }
}

template <class E>
void fill_lse(const Problem& problem, void* lse, const std::vector<int64_t>& which) {
    for (const int64_t row : which) {
        std::fill_n(static_cast<E*>(lse) + row * problem.num_heads, problem.num_heads,
                    -std::numeric_limits<E>::infinity());
    }
}

// Partial planes of d(bias), one per chunk and head, that are added up when all tasks are done.
template <class E>
class PartialPlanes {
  public:
    PartialPlanes(const Problem& problem, const std::vector<Chunk>& chunks)
        : heads_(problem.num_heads), bias_size_(problem.bias_size), chunks_(chunks) {
        int64_t total = 0;
        for (const Chunk& chunk : chunks_) total += (chunk.bias_end - chunk.bias_begin) * heads_;
        auto* memory = static_cast<E*>(call_scratch(static_cast<size_t>(total) * sizeof(E)));
        for (const Chunk& chunk : chunks_) {
            planes_.push_back(memory);
            memory += (chunk.bias_end - chunk.bias_begin) * heads_;
        }
    }
    PartialPlanes(const PartialPlanes&) = delete;
    PartialPlanes& operator=(const PartialPlanes&) = delete;
    ~PartialPlanes() { trim_call_scratch(); }

    BiasTarget target(size_t c) {
        const Chunk& chunk = chunks_[c];
        return {planes_[c], chunk.bias_end - chunk.bias_begin, chunk.bias_begin, chunk.bias_begin,
                chunk.bias_end};
    }

    // One head, chunk after chunk: always in the same order.
    void sum(int64_t h, E* dbias) const {
        E* plane = dbias + h * bias_size_;
        std::fill_n(plane, bias_size_, E{0});
        for (size_t c = 0; c < chunks_.size(); ++c) {
            const int64_t size = chunks_[c].bias_end - chunks_[c].bias_begin;
            const E* partial = planes_[c] + h * size;
            E* target = plane + chunks_[c].bias_begin;
            for (int64_t x = 0; x < size; ++x) target[x] += partial[x];
        }
    }

  private:
    int64_t heads_, bias_size_;
    const std::vector<Chunk>& chunks_;
    std::vector<E*> planes_;
};

// Where each chunk adds to d(bias) when chunks touch entries of their own: a chunk also clears the
// gap before it, the last one the rest.
std::vector<BiasTarget> direct_targets(const Problem& problem, const std::vector<Chunk>& chunks,
                                       void* dbias) {
    std::vector<BiasTarget> targets;
    int64_t end = 0;
    for (size_t c = 0; c < chunks.size(); ++c) {
        const bool last = c + 1 == chunks.size();
        const int64_t begin = end;
        if (chunks[c].bias_end > chunks[c].bias_begin) end = chunks[c].bias_end;
        if (last) end = problem.bias_size;
        targets.push_back({dbias, problem.bias_size, 0, begin, end});
    }
    return targets;
}

std::vector<BackwardTask> make_tasks(const Problem& problem, const BackwardSplit& split,
                                     const std::vector<BiasTarget>& dbias,
                                     std::vector<double>& dscale) {
    std::vector<BackwardTask> tasks;
    const int64_t heads = problem.num_heads, blocks = split.head_blocks;
    for (size_t c = 0; c < split.chunks.size(); ++c) {
        const Chunk& chunk = split.chunks[c];
        for (int64_t b = 0; b < blocks; ++b) {
            const Task task{chunk.group_begin,
                            chunk.group_end,
                            heads * b / blocks,
                            heads * (b + 1) / blocks,
                            0,
                            problem.num_queries};
            tasks.push_back({task, dbias.empty() ? BiasTarget{} : dbias[c],
                             dscale.empty() ? nullptr : dscale.data() + c * heads});
        }
    }
    return tasks;
}

template <class E>
void backward(const Problem& problem, const BackwardInputs& inputs, const Gradients& gradients,
              const Parallel& parallel, const Kernels& kernels) {
    const int64_t heads = problem.num_heads;
    const bool wants_dbias = gradients.dbias != nullptr;
    const BackwardSplit split = split_backward(problem, wants_dbias);
    const size_t chunks = split.chunks.size();
    const bool partial = wants_dbias && !split.disjoint_bias;

    std::optional<PartialPlanes<E>> planes;
    std::vector<BiasTarget> dbias;
    if (partial) {
        planes.emplace(problem, split.chunks);
        for (size_t c = 0; c < chunks; ++c) dbias.push_back(planes->target(c));
    } else if (wants_dbias) {
        dbias = direct_targets(problem, split.chunks, gradients.dbias);
    }
    std::vector<double> dscale(gradients.dscale != nullptr ? chunks * heads : 0, 0.0);

    const std::vector<BackwardTask> tasks = make_tasks(problem, split, dbias, dscale);
    parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
        kernels.backward(problem, inputs, gradients, tasks[static_cast<size_t>(t)]);
    });

    if (partial) {
        parallel(heads, [&](int64_t h) { planes->sum(h, static_cast<E*>(gradients.dbias)); });
    } else if (wants_dbias && tasks.empty()) {
        std::fill_n(static_cast<E*>(gradients.dbias), heads * problem.bias_size, E{0});
    }
    if (gradients.dscale != nullptr) {
        for (int64_t h = 0; h < heads; ++h) {
            double sum = 0;
            for (size_t c = 0; c < chunks; ++c) sum += dscale[c * heads + h];
            static_cast<E*>(gradients.dscale)[h] = static_cast<E>(sum);
        }
    }
}

}  // namespace

void attention_forward(const Problem& problem, const ForwardOutputs& outputs,
                       const Parallel& parallel, Isa isa) {
    const Kernels& kernels = kernels_of(isa);
    const std::vector<int64_t> unlisted =
        unlisted_rows(problem.plan.query, problem.plan.num_groups, problem.num_queries, false);
    clear_rows(problem, outputs.out, unlisted);
    if (outputs.lse != nullptr) {
        if (problem.dtype == DType::kFloat64) {
            fill_lse<double>(problem, outputs.lse, unlisted);
        } else {
            fill_lse<float>(problem, outputs.lse, unlisted);
        }
    }
    const std::vector<Task> tasks = forward_tasks(problem);
    parallel(static_cast<int64_t>(tasks.size()),
             [&](int64_t t) { kernels.forward(problem, outputs, tasks[static_cast<size_t>(t)]); });
}

void attention_backward(const Problem& problem, const BackwardInputs& inputs,
                        const Gradients& gradients, const Parallel& parallel, Isa isa) {
    const Kernels& kernels = kernels_of(isa);
    const Plan& plan = problem.plan;
    clear_rows(problem, gradients.dq,
               unlisted_rows(plan.query, plan.num_groups, problem.num_queries, false));
    if (!plan.keys_repeat || plan.num_groups == 0) {  // repeated keys: their sums cover all rows
        const std::vector<int64_t> unlisted =
            unlisted_rows(plan.key, plan.num_groups, problem.num_keys, plan.keys_repeat);
        clear_rows(problem, gradients.dk, unlisted);
        clear_rows(problem, gradients.dv, unlisted);
    }
    if (problem.dtype == DType::kFloat64) {
        backward<double>(problem, inputs, gradients, parallel, kernels);
    } else {
        backward<float>(problem, inputs, gradients, parallel, kernels);
    }
}

}  // namespace unitrans
