// Speed of the attention core alone: useful GFLOP/s (4 n^2 d per group and head forward, 10 n^2 d
// backward) on one thread, for every instruction set of this machine. Options, each with a value:
// --ms (per figure, default 300; 0: one run), and parts of names that choose what is run: --shape,
// --dtype, --isa (whole), --pass.
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
    std::vector<int32_t> position;  // of every token in a window of 49; empty: windows are whole
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
            const int64_t places = shape.position.empty() ? size : 49;
            row_stride.push_back(static_cast<int32_t>(places));
            bias_size = places * places + (shape.plane == Plane::kShared ? 0 : bias_size);
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

        const int32_t* position = shape.position.empty() ? nullptr : shape.position.data();
        problem.dtype = dtype;
        problem.num_queries = problem.num_keys = tokens;
        problem.num_heads = n;
        problem.head_dim = d;
        problem.plan.num_groups = static_cast<int64_t>(shape.sizes.size());
        problem.plan.query =
            problem.plan.key = {cu_seqlens.data(), nullptr, position, cu_seqlens.back()};
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

// Best of several runs, in seconds: other programs only ever add time. At least one run.
template <class Body>
double best_time(double budget, Body&& body) {
    using Clock = std::chrono::steady_clock;
    double best = 1e30, total = 0;
    do {
        const auto start = Clock::now();
        body();
        const double time = std::chrono::duration<double>(Clock::now() - start).count();
        best = std::min(best, time);
        total += time;
    } while (total < budget);
    return best;
}

struct Options {
    double seconds = 0.3;
    std::string shape, dtype, isa, pass;  // parts of names; empty: all

    Options(int argc, char** argv) {
        for (int i = 1; i + 1 < argc; i += 2) {
            const std::string name = argv[i], value = argv[i + 1];
            if (name == "--ms") seconds = std::atof(value.c_str()) / 1000;
            if (name == "--shape") shape = value;
            if (name == "--dtype") dtype = value;
            if (name == "--isa") isa = value;
            if (name == "--pass") pass = value;
        }
    }
    static bool fits(const std::string& name, const std::string& part) {
        return name.find(part) != std::string::npos;
    }
};

// Ascending places of a window of 49, of which 20 are there.
std::vector<int32_t> visible_places(size_t windows, std::mt19937& rng) {
    std::vector<int32_t> places;
    for (size_t w = 0; w < windows; ++w) {
        for (int32_t place = 0, left = 20; place < 49; ++place) {
            if (static_cast<int32_t>(rng() % (49 - place)) >= left) continue;
            places.push_back(place);
            --left;
        }
    }
    return places;
}

void measure(const Shape& shape, DType dtype, const Options& options) {
    const std::string type = dtype == DType::kFloat32 ? "float32" : "bfloat16";
    if (!Options::fits(shape.name, options.shape) || !Options::fits(type, options.dtype)) return;
    Data data(shape, dtype);
    for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
        const Isa isa = static_cast<Isa>(level);
        const std::string name = unitrans::isa_name(isa);
        if (!options.isa.empty() && name != options.isa) continue;
        double forward = 0, backward = 0;
        if (Options::fits("forward", options.pass)) {
            forward = best_time(options.seconds, [&] {
                unitrans::attention_forward(data.problem, data.outputs, serial, isa);
            });
        }
        if (Options::fits("backward", options.pass)) {
            backward = best_time(options.seconds, [&] {
                unitrans::attention_backward(data.problem, data.inputs, data.gradients, serial,
                                             isa);
            });
        }
        const auto rate = [&](double flops, double time) {
            return time == 0 ? 0 : flops * data.products / time / 1e9;
        };
        std::printf("%-28s %-9s %-11s %10.1f %10.1f\n", shape.name.c_str(), type.c_str(),
                    name.c_str(), rate(4, forward), rate(10, backward));
        std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
    const Options options(argc, argv);
    std::mt19937 rng(7);
    std::vector<int32_t> molecules(256), sentences(16);
    for (int32_t& n : molecules) n = 10 + static_cast<int32_t>(rng() % 11);
    for (int32_t& n : sentences) n = 64 + static_cast<int32_t>(rng() % 192);
    const std::vector<Shape> shapes = {
        {"windows 49, d 32, in cache", std::vector<int32_t>(8, 49), 3, 32, Plane::kShared, {}},
        {"visible 20 of 49, in cache", std::vector<int32_t>(16, 20), 3, 32, Plane::kShared,
         visible_places(16, rng)},
        {"packed 96, in cache", std::vector<int32_t>(2, 96), 3, 64, Plane::kNone, {}},
        {"molecules, in cache", {10, 17, 13, 20, 15}, 8, 24, Plane::kRagged, {}},
        {"windows 49, d 32, 56x56x8", std::vector<int32_t>(512, 49), 3, 32, Plane::kShared, {}},
        {"windows 49, d 32, 7x7x8", std::vector<int32_t>(8, 49), 24, 32, Plane::kShared, {}},
        {"visible 20 of 49, d 32", std::vector<int32_t>(512, 20), 3, 32, Plane::kShared,
         visible_places(512, rng)},
        {"windows 20, d 32", std::vector<int32_t>(512, 20), 3, 32, Plane::kShared, {}},
        {"windows 64, d 32", std::vector<int32_t>(64, 64), 6, 32, Plane::kShared, {}},
        {"windows 256, d 32", std::vector<int32_t>(16, 256), 6, 32, Plane::kShared, {}},
        {"packed 64..255, d 64", sentences, 12, 64, Plane::kNone, {}},
        {"packed 8 x 512, d 64", std::vector<int32_t>(8, 512), 12, 64, Plane::kNone, {}},
        {"molecules 10..20, d 24", molecules, 32, 24, Plane::kRagged, {}},
    };
    std::printf("%-28s %-9s %-11s %10s %10s   GFLOP/s, one thread\n", "shape", "dtype", "isa",
                "forward", "backward");
    for (const Shape& shape : shapes) {
        for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
            measure(shape, dtype, options);
        }
    }
}
