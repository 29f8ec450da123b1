#include "unitrans/bias_gelu.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

#include "bias_gelu_kernels.hpp"

namespace unitrans {
namespace {

// Values of a task: few enough to stay in the caches, enough to be worth handing out.
constexpr int64_t kTaskValues = 64 * 1024;
// Rows whose gradients are added up in the element type before they are in fp64.
constexpr int64_t kMinTaskRows = 16, kMaxTaskRows = 256;

struct Rows {
    int64_t per_task, tasks;
    explicit Rows(const BiasGelu& problem)
        : per_task(std::clamp(kTaskValues / std::max<int64_t>(problem.num_columns, 1), kMinTaskRows,
                              kMaxTaskRows)),
          tasks((problem.num_rows + per_task - 1) / per_task) {}
};

const BiasGeluKernels& kernels_of(Isa isa) {
    const BiasGeluKernels* kernels = find_bias_gelu_kernels(isa);
    assert(kernels != nullptr && isa <= best_isa());
    return *kernels;
}

template <class E>
void forward(const BiasGelu& problem, E* out, const Parallel& parallel, Isa isa) {
    const Rows rows(problem);
    const int64_t columns = problem.num_columns;
    parallel(rows.tasks, [&](int64_t t) {
        const int64_t begin = t * rows.per_task;
        const int64_t count = std::min(rows.per_task, problem.num_rows - begin);
        kernels_of(isa).forward(count, columns, static_cast<const E*>(problem.x) + begin * columns,
                                static_cast<const E*>(problem.bias), out + begin * columns);
    });
}

template <class E>
void backward(const BiasGelu& problem, const E* grad_out, E* dx, E* dbias, const Parallel& parallel,
              Isa isa) {
    const Rows rows(problem);
    const int64_t columns = problem.num_columns;
    std::vector<E> partial(rows.tasks * columns);
    parallel(rows.tasks, [&](int64_t t) {
        const int64_t begin = t * rows.per_task, at = begin * columns;
        const int64_t count = std::min(rows.per_task, problem.num_rows - begin);
        kernels_of(isa).backward(count, columns, static_cast<const E*>(problem.x) + at,
                                 static_cast<const E*>(problem.bias), grad_out + at, dx + at,
                                 partial.data() + t * columns);
    });
    std::vector<double> sum(columns);
    for (int64_t t = 0; t < rows.tasks; ++t) {
        for (int64_t c = 0; c < columns; ++c) sum[c] += partial[t * columns + c];
    }
    for (int64_t c = 0; c < columns; ++c) dbias[c] = static_cast<E>(sum[c]);
}

}  // namespace

void bias_gelu_forward(const BiasGelu& problem, void* out, const Parallel& parallel, Isa isa) {
    if (problem.dtype == DType::kFloat64) {
        forward(problem, static_cast<double*>(out), parallel, isa);
    } else {
        forward(problem, static_cast<float*>(out), parallel, isa);
    }
}

void bias_gelu_backward(const BiasGelu& problem, const void* grad_out, void* dx, void* dbias,
                        const Parallel& parallel, Isa isa) {
    const auto run = [&]<class E>(const E* grad) {
        backward(problem, grad, static_cast<E*>(dx), static_cast<E*>(dbias), parallel, isa);
    };
    if (problem.dtype == DType::kFloat64) {
        run(static_cast<const double*>(grad_out));
    } else {
        run(static_cast<const float*>(grad_out));
    }
}

}  // namespace unitrans
