// The kernels of the pair bias, emulated on the host, against the CPU core, whose own tests compare it with the formula.
#include "pair_bias.hpp"

#include <random>
#include <vector>

#include "check.hpp"
#include "emulation.hpp"

namespace {

using unitrans::PairBias;
namespace gpu = unitrans::cuda;

void serial(int64_t n, const std::function<void(int64_t)>& body) {
    for (int64_t i = 0; i < n; ++i) body(i);
}

template <class T>
void compare(const std::string& what, const std::vector<T>& a, const std::vector<T>& b) {
    const double bound = sizeof(T) == 8 ? 1e-13 : 2e-6;
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double error =
            a[i] == b[i] ? 0
                         : std::fabs(double(a[i]) - double(b[i])) / (1 + std::fabs(double(b[i])));
        if (!(error <= worst)) worst = error;
    }
    check::that(a.size() == b.size() && worst <= bound, what + ": error " + std::to_string(worst));
}

template <class T>
void check_graphs(const std::vector<int>& sizes, int64_t heads, int64_t hops, int64_t max_divisor,
                  unsigned seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<double> normal;
    const int64_t num_spatial = 12, num_codes = 5, max_distance = 9;
    std::vector<int32_t> cu = {0}, codes;
    std::vector<int16_t> distance;
    int64_t planes_size = 0;
    for (const int n : sizes) {
        cu.push_back(cu.back() + n);
        planes_size += int64_t(n + 1) * (n + 1);
        for (int i = 0; i < n * n; ++i) {
            distance.push_back(
                static_cast<int16_t>(rng() % 11));  // some too far, some without a path
            for (int k = 0; k < hops; ++k) codes.push_back(static_cast<int32_t>(rng() % num_codes));
        }
    }
    const auto random = [&](int64_t n) {
        std::vector<T> x;
        for (int64_t i = 0; i < n; ++i) x.push_back(static_cast<T>(normal(rng)));
        return x;
    };
    const std::vector<T> spatial = random(num_spatial * heads),
                         hop = random(hops * num_codes * heads), token = random(heads);
    PairBias p;
    p.dtype = sizeof(T) == 8 ? unitrans::DType::kFloat64 : unitrans::DType::kFloat32;
    p.num_graphs = static_cast<int64_t>(sizes.size());
    p.num_nodes = cu.back();
    p.num_heads = heads;
    p.num_spatial = num_spatial;
    p.num_hops = hops;
    p.num_codes = num_codes;
    p.max_divisor = max_divisor;
    p.max_distance = max_distance;
    p.plane_size = planes_size;
    p.cu_nodes = cu.data();
    p.distance = distance.data();
    p.hops = codes.data();
    p.spatial = spatial.data();
    p.hop = hop.data();
    p.token = token.data();

    for (const bool backwards : {false, true}) {
        gpu::Emulation launcher{backwards};
        std::vector<char> memory(gpu::PairBiasWorkspace(p, true, nullptr).bytes, '\xff');
        std::vector<T> want(heads * planes_size), got(heads * planes_size, T(NAN));
        unitrans::pair_bias_forward(p, want.data(), serial);
        gpu::pair_bias_planes(launcher, p, got.data(), memory.data());
        compare("planes", got, want);

        const std::vector<T> grad = random(heads * planes_size);
        std::vector<T> ds(spatial), dh(hop), dt(token), es(spatial), eh(hop), et(token);
        unitrans::pair_bias_backward(p, grad.data(), ds.data(), dh.data(), dt.data(), serial);
        gpu::pair_bias_tables(launcher, p, grad.data(), es.data(), eh.data(), et.data(),
                              memory.data());
        compare("d(spatial)", es, ds);
        compare("d(hop)", eh, dh);
        compare("d(token)", et, dt);
    }
}

// Lists that do not fit: nothing outside the arrays is read or written (the sanitizers tell).
void damaged_lists() {
    std::mt19937 rng(5);
    const std::vector<int> wild = {-30000, -2, -1, 0, 1, 7, 30000};
    for (int turn = 0; turn < 200; ++turn) {
        const int64_t heads = 3, hops = 2, num_codes = 4, num_spatial = 1 + rng() % 8, nodes = 12;
        std::vector<int32_t> cu = {0, 3, 3, 8, 12}, codes(hops * (9 + 25 + 16), 1);
        std::vector<int16_t> distance(9 + 25 + 16, 2);
        for (int i = 0; i < 3; ++i) {
            const int value = wild[rng() % wild.size()];
            if (rng() % 3 == 0) {
                cu[rng() % cu.size()] = value * (rng() % 2 ? 1 : 70000);
            } else if (rng() % 2) {
                codes[rng() % codes.size()] = value * 70000;
            } else {
                distance[rng() % distance.size()] = static_cast<int16_t>(value);
            }
        }
        const std::vector<float> spatial(num_spatial * heads, 1), hop(hops * num_codes * heads, 1),
            token(heads, 1);
        PairBias p;
        p.num_graphs = 4;
        p.num_nodes = nodes;
        p.num_heads = heads;
        p.num_spatial = num_spatial;
        p.num_hops = hops;
        p.num_codes = num_codes;
        p.max_divisor = 2;
        p.max_distance = 600;
        p.plane_size = static_cast<int64_t>(distance.size()) + 2 * nodes + 4;
        p.cu_nodes = cu.data();
        p.distance = distance.data();
        p.hops = codes.data();
        p.spatial = spatial.data();
        p.hop = hop.data();
        p.token = token.data();
        gpu::Emulation launcher{false};
        std::vector<char> memory(gpu::PairBiasWorkspace(p, true, nullptr).bytes, '\xff');
        std::vector<float> planes(heads * p.plane_size), grad(planes), ds(spatial), dh(hop),
            dt(token);
        gpu::pair_bias_planes(launcher, p, planes.data(), memory.data());
        gpu::pair_bias_tables(launcher, p, grad.data(), ds.data(), dh.data(), dt.data(),
                              memory.data());
    }
}

}  // namespace

int main() {
    for (const int64_t heads : {1, 8, 33}) {
        check_graphs<float>({3, 17, 0, 1, 40, 9}, heads, 3, 5, 1);
        check_graphs<double>({3, 17, 0, 1, 40, 9}, heads, 1, 1, 2);
    }
    check_graphs<float>({}, 2, 1, 1, 3);
    check_graphs<float>({0, 0}, 2, 1, 1, 4);
    check_graphs<float>(std::vector<int>(70, 5), 2, 0, 2, 5);
#ifndef UNITRANS_FIBERS  // graphs that overlap have two writers
    damaged_lists();
#endif
    return check::finish("cuda pair bias");
}
