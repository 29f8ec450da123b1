// The pieces of the kernels, compiled once per instruction set like the kernels themselves:
// conversions of every 16-bit value, the exponential function, Philox, transposes and products.
// Exit status 77: not for this machine.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.hpp"
#include "harness.hpp"
#include "kernel/exp.hpp"
#include "kernel/pack.hpp"
#include "kernel/philox.hpp"
#include "kernel/tiles.hpp"
#include "unitrans/attention.hpp"

using namespace unitrans::UNITRANS_ISA_NAMESPACE;
using unitrans::BFloat16;
using unitrans::DType;
using unitrans::Float16;

namespace {

template <class T>
void conversions(DType dtype) {
    constexpr int n = kLanes<float>;
    // Every value of the type, and back.
    for (uint32_t first = 0; first < 65536; first += n) {
        T in[n], out[n];
        float wide[n];
        for (int i = 0; i < n; ++i) in[i].bits = static_cast<uint16_t>(first + i);
        store(wide, load_as<float>(in, n));
        store_as<float>(out, load_as<float>(in, n), n);
        for (int i = 0; i < n; ++i) {
            const double expected = harness::read(reinterpret_cast<const char*>(in + i), dtype);
            const bool nan = std::isnan(expected);
            check::that(nan ? std::isnan(wide[i]) : wide[i] == expected, "widen");
            const double back = harness::read(reinterpret_cast<const char*>(out + i), dtype);
            check::that(nan ? std::isnan(back) : out[i].bits == in[i].bits, "narrow what was wide");
        }
    }
    // Rounding: random floats of all magnitudes, and the middle between two neighbours.
    std::mt19937 rng(1);
    for (int trial = 0; trial < 200000 / n; ++trial) {
        float x[n];
        T out[n];
        for (int i = 0; i < n; ++i) {
            uint32_t bits = static_cast<uint32_t>(rng());
            if (i % 2 == 0) bits = (bits & 0x8fffffff) + 0x30000000;  // around the range of Float16
            if (i % 4 == 0) bits &= dtype == DType::kBFloat16 ? 0xffff8000u : 0xfffff000u;
            std::memcpy(&x[i], &bits, 4);
            if (std::isnan(x[i])) x[i] = 65519.996f;
        }
        store_as<float>(out, load(x), n);
        for (int i = 0; i < n; ++i) {
            double expected = harness::rounded(x[i], dtype);
            if (dtype == DType::kFloat16 && std::fabs(expected) > 65504) {
                expected = std::copysign(INFINITY, expected);
            }
            if (dtype == DType::kBFloat16 && std::fabs(expected) > 3.4e38) {
                expected = std::copysign(INFINITY, expected);
            }
            const double got = harness::read(reinterpret_cast<const char*>(out + i), dtype);
            check::that(got == expected, "round " + std::to_string(x[i]));
        }
    }
}

// Reads and writes of part of a vector touch that part alone.
template <class E, class T>
void partial_vectors() {
    constexpr int n = kLanes<E>;
    for (int count = 1; count <= n; ++count) {
        std::vector<T> in(count), out(n + 1);  // exactly as long as what may be read
        std::memset(in.data(), 0x3c, count * sizeof(T));
        std::memset(out.data(), 0x11, (n + 1) * sizeof(T));
        E lanes[n];
        const Vec<E> v = load_as<E>(in.data(), count);
        store(lanes, v);
        for (int i = 0; i < n; ++i) check::that((lanes[i] != 0) == (i < count), "partial load");
        store_as<E>(out.data(), v, count);
        const char* bytes = reinterpret_cast<const char*>(out.data());
        for (size_t b = 0; b < (n + 1) * sizeof(T); ++b) {
            check::that(bytes[b] == (b < count * sizeof(T) ? 0x3c : 0x11), "partial store");
        }
    }
}

template <class E>
void exponential(double ulps) {
    constexpr int n = kLanes<E>;
    constexpr double epsilon = sizeof(E) == 4 ? 0x1p-23 : 0x1p-52;
    std::mt19937_64 rng(2);
    double worst = 0;
    for (int trial = 0; trial < 400000 / n; ++trial) {
        E x[n], y[n];
        for (int i = 0; i < n; ++i) {
            const double u = static_cast<double>(rng() >> 11) * 0x1p-53;
            x[i] = static_cast<E>(trial % 2 ? -u : -u * (sizeof(E) == 4 ? 126 : 1022));
        }
        store(y, exp2_nonpositive<E>(load(x)));
        for (int i = 0; i < n; ++i) {
            const long double exact = std::exp2(static_cast<long double>(x[i]));
            const int exponent = std::ilogb(exact);
            const double error = static_cast<double>(std::fabs(y[i] - exact));
            worst = std::max(worst, std::ldexp(error, -exponent) / epsilon);
        }
    }
    check::that(worst <= ulps, "exp2: " + std::to_string(worst) + " ulp");
    const E special[4] = {0, -kInfinity<E>, static_cast<E>(NAN), -1100};
    for (int s = 0; s < 4; ++s) {
        E y[n];
        store(y, exp2_nonpositive<E>(broadcast(special[s])));
        for (int i = 0; i < n; ++i) {
            check::that(s == 2 ? std::isnan(y[i]) : y[i] == (s == 0 ? 1 : 0), "exp2 of a special");
        }
    }
}

// Known answers of the authors' Random123 library (kat_vectors, philox4x32 10).
void random_words() {
    const uint32_t answers[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (const auto& a : answers) {
        PhiloxState state{WordVec{} + a[0], WordVec{} + a[1], WordVec{} + a[2], WordVec{} + a[3]};
        uint32_t key0 = a[4], key1 = a[5];
        for (int round = 0; round < 10; ++round) {
            state.round(key0, key1);
            key0 += 0x9E3779B9;
            key1 += 0xBB67AE85;
        }
        uint32_t words[4 * kLanes<double>];
        state.store(words);
        for (int i = 0; i < 4 * kLanes<double>; ++i) {
            check::that(words[i] == a[6 + i % 4], "Philox word");
        }
    }
    // Counters of a batch, in order.
    uint32_t counters[kPhiloxBatch], words[4 * kPhiloxBatch];
    for (int i = 0; i < kPhiloxBatch; ++i) counters[i] = 1000u * i + 7;
    philox4x32_10(3, counters, 5, 0x89abcdef, 0x01234567, words);
    for (int i = 0; i < 4 * kPhiloxBatch; ++i) {
        const auto expected = reference::philox({3, counters[i / 4], 5, 0}, 0x89abcdef, 0x01234567);
        check::that(words[i] == expected[i % 4], "Philox batch");
    }
}

template <class E>
void transposes() {
    constexpr int n = kLanes<E>;
    Vec<E> rows[n];
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) rows[i][j] = static_cast<E>(i * n + j);
    }
    transpose<E>(rows);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) check::that(rows[i][j] == j * n + i, "transpose");
    }
}

template <class E>
void products() {
    constexpr int n = kLanes<E>;
    std::mt19937 rng(3);
    for (int trial = 0; trial < 300; ++trial) {
        const Index rows = rng() % 20, vectors = rng() % 10, depth = rng() % 12;
        const bool accumulate = rng() % 2, transposed = rng() % 2;
        std::vector<E> a(rows * depth), b(depth * vectors * n), c(rows * vectors * n);
        for (auto* m : {&a, &b, &c}) {  // small integers: sums are exact
            for (E& x : *m) x = static_cast<E>(static_cast<int>(rng() % 17) - 8);
        }
        std::vector<E> expected = c;
        const Index a_row = transposed ? 1 : depth, a_depth = transposed ? rows : 1;
        const Left<E> left{a.data(), transposed ? rows : depth};
        const Right<E> right{b.data(), vectors * n, n};
        const Target<E> target{c.data(), vectors * n};
        for (Index i = 0; i < rows; ++i) {
            for (Index j = 0; j < vectors * n; ++j) {
                E sum = accumulate ? c[i * vectors * n + j] : 0;
                for (Index k = 0; k < depth; ++k) {
                    sum += a[i * a_row + k * a_depth] * b[k * vectors * n + j];
                }
                expected[i * vectors * n + j] = sum;
            }
        }
        if (transposed) {
            multiply<E, true>(rows, vectors, depth, left, right, target, accumulate);
        } else {
            multiply<E, false>(rows, vectors, depth, left, right, target, accumulate);
        }
        check::that(c == expected, "product");
    }
}

}  // namespace

int main() {
    if (unitrans::Isa::UNITRANS_ISA_LEVEL > unitrans::best_isa()) {
        std::printf("this machine does not run %s\n",
                    unitrans::isa_name(unitrans::Isa::UNITRANS_ISA_LEVEL));
        return 77;
    }
    conversions<BFloat16>(DType::kBFloat16);
    conversions<Float16>(DType::kFloat16);
    partial_vectors<float, float>();
    partial_vectors<float, BFloat16>();
    partial_vectors<float, Float16>();
    partial_vectors<double, double>();
    exponential<float>(2.0);
    exponential<double>(2.0);
    random_words();
    transposes<float>();
    transposes<double>();
    products<float>();
    products<double>();
    return check::finish(unitrans::isa_name(unitrans::Isa::UNITRANS_ISA_LEVEL));
}
