// Bias and GELU against the formula in double, for every instruction set of this machine.
#include "unitrans/bias_gelu.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "harness.hpp"

namespace {

using unitrans::DType;
using unitrans::Isa;

double cdf(double u) { return 0.5 * std::erfc(-u / std::sqrt(2.0)); }
double derivative(double u) {
    return cdf(u) + u * std::exp(-0.5 * u * u) / std::sqrt(2 * std::acos(-1.0));
}

template <class E>
void check_case(int64_t rows, int64_t columns, Isa isa) {
    const bool wide = sizeof(E) == 8;
    const std::string name = std::string(unitrans::isa_name(isa)) + (wide ? " fp64 " : " fp32 ") +
                             std::to_string(rows) + "x" + std::to_string(columns) + " ";
    std::mt19937 rng(3);
    std::normal_distribution<double> normal(0, 3);
    std::vector<E> x(rows * columns), bias(columns), grad(rows * columns);
    for (auto* values : {&x, &bias, &grad}) {
        for (E& value : *values) value = static_cast<E>(normal(rng));
    }
    unitrans::BiasGelu problem{wide ? DType::kFloat64 : DType::kFloat32, rows, columns, x.data(),
                               bias.data()};
    std::vector<E> out(x.size()), dx(x.size()), dbias(columns), out2(x), dx2(grad), dbias2(columns);
    unitrans::bias_gelu_forward(problem, out.data(), harness::serial, isa);
    unitrans::bias_gelu_backward(problem, grad.data(), dx.data(), dbias.data(), harness::serial,
                                 isa);
    const double bound = wide ? 1e-14 : 1e-6;
    std::vector<double> sums(columns), sizes(columns);
    bool forward_right = true, backward_right = true, bias_right = true;
    for (int64_t i = 0; i < rows * columns; ++i) {
        const double u = static_cast<E>(x[i] + bias[i % columns]);
        const double d = grad[i] * derivative(u);
        forward_right =
            forward_right && std::fabs(out[i] - u * cdf(u)) <= bound * (1 + std::fabs(u));
        backward_right = backward_right && std::fabs(dx[i] - d) <= bound * (1 + std::fabs(grad[i]));
        sums[i % columns] += d;
        sizes[i % columns] += 1 + std::fabs(grad[i]);
    }
    for (int64_t c = 0; c < columns; ++c) {
        bias_right = bias_right && std::fabs(dbias[c] - sums[c]) <= bound * (1 + sizes[c]);
    }
    check::that(forward_right, name + "out");
    check::that(backward_right, name + "dx");
    check::that(bias_right, name + "dbias");
    // In place, with two threads: the same bits.
    problem.x = out2.data();
    unitrans::bias_gelu_forward(problem, out2.data(), harness::two_threads, isa);
    problem.x = x.data();
    unitrans::bias_gelu_backward(problem, dx2.data(), dx2.data(), dbias2.data(),
                                 harness::two_threads, isa);
    check::that(out == out2 && dx == dx2 && dbias == dbias2, name + "differs in place");
}

// Far out the result is u or 0, never NaN; NaN stays.
void check_extremes(Isa isa) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), huge = 1e30f;
    const std::vector<float> x = {huge, -huge, 0, nan, 20, -20}, bias(6), grad(6, 1.0f);
    std::vector<float> out(6), dx(6), dbias(6);
    const unitrans::BiasGelu problem{DType::kFloat32, 1, 6, x.data(), bias.data()};
    unitrans::bias_gelu_forward(problem, out.data(), harness::serial, isa);
    unitrans::bias_gelu_backward(problem, grad.data(), dx.data(), dbias.data(), harness::serial,
                                 isa);
    const std::string name = unitrans::isa_name(isa);
    check::that(out[0] == huge && out[1] == 0 && out[2] == 0 && std::isnan(out[3]) &&
                    out[4] == 20 && out[5] == 0,
                name + " far out");
    check::that(dx[0] == 1 && dx[1] == 0 && std::fabs(dx[2] - 0.5f) < 1e-6f && std::isnan(dx[3]) &&
                    dx[4] == 1 && dx[5] == 0,
                name + " far out, gradient");
}

}  // namespace

int main() {
    for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
        const Isa isa = static_cast<Isa>(level);
        for (const auto& [rows, columns] :
             {std::pair{0, 5}, {3, 0}, {1, 1}, {5, 7}, {70, 48}, {700, 101}}) {
            check_case<float>(rows, columns, isa);
            check_case<double>(rows, columns, isa);
        }
        check_extremes(isa);
    }
    return check::finish("bias_gelu");
}
