// Softmax over whole rows of scores, and its gradient.
#pragma once

#include "exp.hpp"
#include "tiles.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// What a few rows of scores were turned into: scores(j) became exp(scores(j) - max), which add up
// to sum. A row without any score above -inf has max -inf, sum 0 and zeros.
template <class E>
struct SoftmaxState {
    Vec<E> maxima[kTileRows];  // before the softmax: of the lanes of a row; NaN is skipped
    E max[kTileRows];
    E sum[kTileRows];

    E inverse_sum(Index m) const { return sum[m] == 0 ? 0 : 1 / sum[m]; }
};

// Rows are done side by side: each waits for its own exponentials and its own sum.
template <class E, int rows>
[[gnu::noinline]] void softmax(Index vectors, Target<E> scores, SoftmaxState<E>& state) {
    constexpr int n = kLanes<E>;
    Vec<E> running[rows];
    E shift[rows];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
        state.max[m] = reduce_max<E>(state.maxima[m]);
        shift[m] = state.max[m] == -kInfinity<E> ? 0 : state.max[m];  // -inf - 0, not -inf + inf
        running[m] = Vec<E>{};
    }
    for (Index v = 0; v < vectors; ++v) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            E* score = scores.data + m * scores.row + v * n;
            const Vec<E> distance = load(score) - shift[m];
            const Vec<E> p = exp2_nonpositive<E>(distance * Exp2Constants<E>::kLog2E);
            running[m] += p;
            store(score, p);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) state.sum[m] = reduce_add<E>(running[m]);
}

// The gradient of a few rows. With P = probabilities * inverse_sum:
//   in:  gradient = d(loss)/d(dropout(P)), grad_lse = d(loss)/d(lse)
//   out: gradient = d(loss)/d(scores) = P (keep gradient - sum_j P keep gradient + grad_lse)
//        probabilities = keep P, the matrix that was multiplied with v
template <class E, int rows, bool dropout>
[[gnu::always_inline]] inline void softmax_gradient(Index vectors, const E* inverse_sum,
                                                    const E* grad_lse, Target<E> probabilities,
                                                    Target<E> gradient, const E* keep) {
    constexpr Index n = kLanes<E>;
    const Index width = vectors * n;
    const auto gradient_at = [&](int m, Index j) {
        const Vec<E> g = load(gradient.data + m * gradient.row + j);
        return dropout ? g * load(keep + j) : g;
    };
    Vec<E> sum[rows] = {};
    for (Index j = 0; j < width; j += n) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            sum[m] += load(probabilities.data + m * probabilities.row + j) * gradient_at(m, j);
        }
    }
    E delta[rows];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
        delta[m] = reduce_add<E>(sum[m]) * inverse_sum[m] - grad_lse[m];
    }
    for (Index j = 0; j < width; j += n) {
#pragma GCC unroll 8
        for (int m = 0; m < rows; ++m) {
            E* probability = probabilities.data + m * probabilities.row + j;
            const Vec<E> p = load(probability) * inverse_sum[m];
            store(gradient.data + m * gradient.row + j, p * (gradient_at(m, j) - delta[m]));
            store(probability, dropout ? p * load(keep + j) : p);
        }
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
