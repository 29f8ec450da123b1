// Speed of the attention core alone: useful GFLOP/s (4 n^2 d per group and head forward, 10 n^2 d
// backward) on one thread, for every instruction set of this machine. Usage: bench_attention
// [milliseconds per figure]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "unitrans/attention.hpp"

namespace {

using unitrans::DType;
using unitrans::Isa;

enum class Plane { kNone, kShared, kRagged };

struct Shape {
    std::string name;
    std::vector<int32_t> sizes;
    int64_t heads, dim;
    Plane plane;
};

void serial(int64_t n, const std::function<void(int64_t)>& body) {
    for (int64_t i = 0; i < n; ++i) body(i);
}

// q, k and v lie in one array [T, 3, N, D], as a projection leaves them.
struct Data {
    std::vector<int32_t> cu_seqlens = {0}, row_stride;
    std::vector<int64_t> offset;
    std::vector<float> bias, dbias, scale, lse;
    std::vector<char> qkv, dqkv, out, grad_out;
    unitrans::Problem problem;
    unitrans::ForwardOutputs outputs;
    unitrans::BackwardInputs inputs;
    unitrans::Gradients gradients;
    double products = 0;  // sum of n^2 d over groups and heads

    Data(const Shape& shape, DType dtype) {
        const int64_t n = shape.heads, d = shape.dim, bytes = dtype == DType::kFloat32 ? 4 : 2;
        int64_t bias_size = 0;
        for (const int32_t size : shape.sizes) {
            cu_seqlens.push_back(cu_seqlens.back() + size);
            offset.push_back(shape.plane == Plane::kShared ? 0 : bias_size);
            row_stride.push_back(size);
            bias_size = shape.plane == Plane::kShared ? int64_t{size} * size
                                                      : bias_size + int64_t{size} * size;
            products += static_cast<double>(size) * size * d * n;
        }
        const int64_t tokens = cu_seqlens.back();
        qkv = random(tokens * 3 * n * d, dtype);
        grad_out = random(tokens * n * d, dtype);
        out.resize(tokens * n * d * bytes);
        dqkv.resize(tokens * 3 * n * d * bytes);
        lse.resize(tokens * n);
        scale.assign(n, 1 / std::sqrt(static_cast<float>(d)));
        if (shape.plane != Plane::kNone) bias.assign(n * bias_size, 0.1f);
        dbias.resize(bias.size());

        problem.dtype = dtype;
        problem.num_queries = problem.num_keys = tokens;
        problem.num_heads = n;
        problem.head_dim = d;
        problem.plan.num_groups = static_cast<int64_t>(shape.sizes.size());
        problem.plan.query = problem.plan.key = {cu_seqlens.data(), nullptr, nullptr};
        problem.scale = scale.data();
        if (shape.plane != Plane::kNone) {
            problem.bias_size = bias_size;
            problem.plan.bias_offset = offset.data();
            problem.plan.bias_row_stride = row_stride.data();
            problem.bias = bias.data();
            gradients.dbias = dbias.data();
        }
        const int64_t third = n * d * bytes;
        problem.q = {qkv.data(), 3 * n * d, d};
        problem.k = {qkv.data() + third, 3 * n * d, d};
        problem.v = {qkv.data() + 2 * third, 3 * n * d, d};
        outputs = {{out.data(), n * d, d}, lse.data()};
        inputs.grad_out = {grad_out.data(), n * d, d};
        gradients.dq = {dqkv.data(), 3 * n * d, d};
        gradients.dk = {dqkv.data() + third, 3 * n * d, d};
        gradients.dv = {dqkv.data() + 2 * third, 3 * n * d, d};
    }

    static std::vector<char> random(int64_t count, DType dtype) {
        std::mt19937 rng(1);
        std::normal_distribution<float> normal;
        std::vector<char> bytes(count * (dtype == DType::kFloat32 ? 4 : 2));
        for (int64_t i = 0; i < count; ++i) {
            const float x = normal(rng);
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            const uint16_t upper = static_cast<uint16_t>(bits >> 16);
            if (dtype == DType::kFloat32) std::memcpy(bytes.data() + 4 * i, &x, 4);
            if (dtype == DType::kBFloat16) std::memcpy(bytes.data() + 2 * i, &upper, 2);
        }
        return bytes;
    }
};

// Best of several runs, in seconds: other programs only ever add time.
template <class Body>
double best_time(double budget, Body&& body) {
    using Clock = std::chrono::steady_clock;
    double best = 1e30, total = 0;
    while (total < budget) {
        const auto start = Clock::now();
        body();
        const double time = std::chrono::duration<double>(Clock::now() - start).count();
        best = std::min(best, time);
        total += time;
    }
    return best;
}

}  // namespace

int main(int argc, char** argv) {
    const double budget = (argc > 1 ? std::atof(argv[1]) : 300) / 1000;
    std::mt19937 rng(7);
    std::vector<int32_t> molecules(256), sentences(16);
    for (int32_t& n : molecules) n = 10 + static_cast<int32_t>(rng() % 11);
    for (int32_t& n : sentences) n = 64 + static_cast<int32_t>(rng() % 192);
    const std::vector<Shape> shapes = {
        {"windows 49, d 32, in cache", std::vector<int32_t>(16, 49), 3, 32, Plane::kShared},
        {"windows 49, d 32, 56x56x8", std::vector<int32_t>(512, 49), 3, 32, Plane::kShared},
        {"windows 256, d 32", std::vector<int32_t>(16, 256), 6, 32, Plane::kShared},
        {"packed 64..255, d 64", sentences, 12, 64, Plane::kNone},
        {"packed 8 x 512, d 64", std::vector<int32_t>(8, 512), 12, 64, Plane::kNone},
        {"molecules 10..20, d 24", molecules, 32, 24, Plane::kRagged},
    };
    std::printf("%-28s %-9s %-9s %10s %10s   GFLOP/s, one thread\n", "shape", "dtype", "isa",
                "forward", "backward");
    for (const Shape& shape : shapes) {
        for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
            Data data(shape, dtype);
            for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
                const Isa isa = static_cast<Isa>(level);
                const double forward = best_time(budget, [&] {
                    unitrans::attention_forward(data.problem, data.outputs, serial, isa);
                });
                const double backward = best_time(budget, [&] {
                    unitrans::attention_backward(data.problem, data.inputs, data.gradients, serial,
                                                 isa);
                });
                std::printf("%-28s %-9s %-9s %10.1f %10.1f\n", shape.name.c_str(),
                            dtype == DType::kFloat32 ? "float32" : "bfloat16",
                            unitrans::isa_name(isa), 4 * data.products / forward / 1e9,
                            10 * data.products / backward / 1e9);
                std::fflush(stdout);
            }
        }
    }
}
