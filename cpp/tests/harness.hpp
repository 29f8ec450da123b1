// Turns a description of a problem into arrays, runs the core on it and compares with the
// reference.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "check.hpp"
#include "reference.hpp"
#include "unitrans/attention.hpp"

namespace harness {

using unitrans::DType;
using unitrans::Isa;

enum class Bias { kNone, kShared, kRagged };

struct Case {
    std::string name;
    std::vector<int> sizes = {};      // queries of each group
    std::vector<int> key_sizes = {};  // empty: the keys are the queries
    int heads = 2, dim = 16;
    Bias bias = Bias::kNone;
    bool shuffled = false;  // tokens in random order, some in no group (these hold NaN)
    bool gaps = false;      // positions with gaps
    bool repeat = false;    // keys drawn at random, with repetition (needs key_sizes)
    bool some_without_bias = false;
    bool grad_lse = false, qk_norm = false;
    double minus_inf = 0;  // share of the bias that is -inf
    double scale = 0;      // 0: random, with one head at exactly 0
    double dropout_p = 0;
    std::vector<int> reach = {};  // {left, right} for all groups; empty: random if random_reach
    bool random_reach = false;
    int pad = 0;  // unused elements between the heads and at the start
};

inline int64_t bytes_of(DType dtype) {
    return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}
inline const char* name_of(DType dtype) {
    const char* names[] = {"float32", "bfloat16", "float16", "float64"};
    return names[static_cast<int>(dtype)];
}

// x rounded to `mantissa` bits (the hidden one not counted) and to multiples of 2^lowest.
inline double round_to(double x, int mantissa, int lowest) {
    if (x == 0 || !std::isfinite(x)) return x;
    const int exponent = std::max(std::ilogb(x) - mantissa, lowest);
    return std::ldexp(std::nearbyint(std::ldexp(x, -exponent)), exponent);
}
inline double rounded(double x, DType dtype) {
    switch (dtype) {
        case DType::kFloat32:
            return static_cast<float>(x);
        case DType::kBFloat16:
            return round_to(static_cast<float>(x), 7, -133);
        case DType::kFloat16:
            return round_to(x, 10, -24);
        case DType::kFloat64:
            return x;
    }
    return x;
}

inline void write(char* p, double x, DType dtype) {
    uint16_t half = 0;
    const float f = static_cast<float>(x);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    switch (dtype) {
        case DType::kFloat32:
            std::memcpy(p, &f, 4);
            return;
        case DType::kFloat64:
            std::memcpy(p, &x, 8);
            return;
        case DType::kBFloat16:
            half = static_cast<uint16_t>(bits >> 16);
            break;
        case DType::kFloat16: {
            const double m = std::fabs(x);
            const int e = m < 0x1p-14 ? -14 : std::isfinite(m) ? std::ilogb(m) : 0;
            const int units = static_cast<int>(std::isfinite(m) ? std::ldexp(m, 10 - e) : 0);
            half = static_cast<uint16_t>(units < 1024 ? units : ((e + 15) << 10) + units - 1024);
            if (std::isnan(x)) half = 0x7e00;
            if (std::isinf(x)) half = 0x7c00;
            half |= std::signbit(x) ? 0x8000 : 0;
        }
    }
    std::memcpy(p, &half, 2);
}

inline double read(const char* p, DType dtype) {
    uint16_t half;
    float f;
    double x;
    switch (dtype) {
        case DType::kFloat32:
            std::memcpy(&f, p, 4);
            return f;
        case DType::kFloat64:
            std::memcpy(&x, p, 8);
            return x;
        case DType::kBFloat16: {
            std::memcpy(&half, p, 2);
            const uint32_t bits = static_cast<uint32_t>(half) << 16;
            std::memcpy(&f, &bits, 4);
            return f;
        }
        case DType::kFloat16: {
            std::memcpy(&half, p, 2);
            const int e = (half >> 10) & 31, m = half & 1023;
            x = e == 31  ? (m ? NAN : INFINITY)
                : e == 0 ? std::ldexp(m, -24)
                         : std::ldexp(1024 + m, e - 25);
            return half & 0x8000 ? -x : x;
        }
    }
    return 0;
}

// Rows [T, N, D] with unused elements around the heads, and one element of offset: no vector is
// ever aligned.
class Array {
  public:
    Array(int64_t rows, int64_t heads, int64_t dim, int pad, DType dtype)
        : rows_(rows), heads_(heads), dim_(dim), dtype_(dtype), offset_(pad > 0 ? 1 : 0) {
        head_stride_ = dim + pad;
        row_stride_ = heads * head_stride_ + pad;
        bytes_.assign((rows * row_stride_ + offset_) * bytes_of(dtype), '\x5a');
    }
    Array(const std::vector<double>& values, int64_t rows, int64_t heads, int64_t dim, int pad,
          DType dtype)
        : Array(rows, heads, dim, pad, dtype) {
        for (size_t i = 0; i < values.size(); ++i) write(at(i), values[i], dtype);
    }

    unitrans::Rows rows() { return {bytes_.data() + offset_ * size(), row_stride_, head_stride_}; }
    unitrans::ConstRows const_rows() {
        return {bytes_.data() + offset_ * size(), row_stride_, head_stride_};
    }
    std::vector<double> values() {
        std::vector<double> result(rows_ * heads_ * dim_);
        for (size_t i = 0; i < result.size(); ++i) result[i] = read(at(i), dtype_);
        return result;
    }
    // Nothing but the rows was written.
    bool gaps_untouched() {
        std::vector<char> copy = bytes_;
        for (int64_t i = 0; i < rows_ * heads_ * dim_; ++i) {
            std::memset(copy.data() + (at(i) - bytes_.data()), 0x5a, size());
        }
        return std::all_of(copy.begin(), copy.end(), [](char c) { return c == '\x5a'; });
    }
    const std::vector<char>& bytes() const { return bytes_; }

  private:
    int64_t size() const { return bytes_of(dtype_); }
    char* at(int64_t i) {
        const int64_t c = i % dim_, h = i / dim_ % heads_, t = i / dim_ / heads_;
        return bytes_.data() + (offset_ + t * row_stride_ + h * head_stride_ + c) * size();
    }

    int64_t rows_, heads_, dim_;
    DType dtype_;
    int64_t offset_, head_stride_ = 0, row_stride_ = 0;
    std::vector<char> bytes_;
};

// Contiguous values of the element type.
inline std::vector<char> elements(const std::vector<double>& values, DType dtype) {
    const DType e = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    std::vector<char> bytes(values.size() * bytes_of(e) + 1);
    for (size_t i = 0; i < values.size(); ++i) write(bytes.data() + i * bytes_of(e), values[i], e);
    return bytes;
}
inline std::vector<double> from_elements(const std::vector<char>& bytes, size_t n, DType dtype) {
    const DType e = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    std::vector<double> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = read(bytes.data() + i * bytes_of(e), e);
    return values;
}

inline reference::Groups make_groups(const std::vector<int>& sizes, const Case& c, bool repeat,
                                     int64_t& rows, std::mt19937& rng) {
    reference::Groups groups;
    groups.cu_seqlens = {0};
    for (const int n : sizes) groups.cu_seqlens.push_back(groups.cu_seqlens.back() + n);
    const int64_t entries = groups.cu_seqlens.back();
    rows = entries;
    if (c.shuffled || repeat) {
        rows = repeat ? std::max<int64_t>(entries / 2, 1) + 3 : entries + entries / 3 + 2;
        std::vector<int32_t> order(rows);
        for (int64_t i = 0; i < rows; ++i) order[i] = static_cast<int32_t>(i);
        std::shuffle(order.begin(), order.end(), rng);
        for (int64_t m = 0; m < entries; ++m) {
            groups.token_index.push_back(repeat ? order[rng() % (rows - 2)] : order[m]);
        }
    }
    if (c.gaps) {
        for (const int n : sizes) {
            int32_t place = static_cast<int32_t>(rng() % 3);
            for (int i = 0; i < n; ++i) {
                groups.position.push_back(place);
                place += 1 + static_cast<int32_t>(rng() % 3 == 0 ? rng() % 4 : 0);
            }
        }
    }
    return groups;
}

inline int64_t places(const reference::Groups& groups, int64_t g) {
    const int64_t begin = groups.cu_seqlens[g], end = groups.cu_seqlens[g + 1];
    return end == begin ? 0 : groups.place(g, end - 1) + 1;
}

inline void make_bias_plan(const Case& c, reference::Problem& p, std::mt19937& rng) {
    if (c.bias == Bias::kNone) return;
    int64_t largest_q = 1, largest_k = 1;
    for (int64_t g = 0; g < p.num_groups(); ++g) {
        largest_q = std::max(largest_q, places(p.query, g));
        largest_k = std::max(largest_k, places(p.key, g));
    }
    p.bias_size = c.bias == Bias::kShared ? largest_q * largest_k + 2 : 3;
    for (int64_t g = 0; g < p.num_groups(); ++g) {
        const bool none = c.some_without_bias && rng() % 3 == 0;
        const int64_t rows = places(p.query, g), columns = places(p.key, g);
        if (c.bias == Bias::kShared) {
            p.bias_offset.push_back(none ? -1 : 2);
            p.bias_row_stride.push_back(static_cast<int32_t>(largest_k));
        } else {
            p.bias_offset.push_back(none ? -1 : p.bias_size);
            p.bias_row_stride.push_back(static_cast<int32_t>(columns));
            if (!none) p.bias_size += rows * columns + 1;
        }
    }
}

inline reference::Problem make_problem(const Case& c, DType dtype, unsigned seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<double> normal;
    reference::Problem p;
    p.heads = c.heads;
    p.dim = c.dim;
    p.query = make_groups(c.sizes, c, false, p.num_queries, rng);
    if (c.key_sizes.empty()) {
        p.key = p.query;
        p.num_keys = p.num_queries;
    } else {
        p.key = make_groups(c.key_sizes, c, c.repeat, p.num_keys, rng);
    }
    make_bias_plan(c, p, rng);
    for (int64_t g = 0; g < p.num_groups(); ++g) {
        if (!c.reach.empty()) {
            p.reach.insert(p.reach.end(), {c.reach[0], c.reach[1]});
        } else if (c.random_reach) {
            for (int side = 0; side < 2; ++side) p.reach.push_back(static_cast<int>(rng() % 9) - 1);
        }
    }
    const auto fill = [&](std::vector<double>& x, int64_t n, DType type, double factor) {
        for (int64_t i = 0; i < n; ++i) x.push_back(rounded(factor * normal(rng), type));
    };
    const DType element = dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    const int64_t nd = p.heads * p.dim;
    fill(p.q, p.num_queries * nd, dtype, 1);
    fill(p.k, p.num_keys * nd, dtype, 1);
    fill(p.v, p.num_keys * nd, dtype, 1);
    fill(p.grad_out, p.num_queries * nd, dtype, 1);
    fill(p.bias, p.heads * p.bias_size, element, 1);
    for (double& b : p.bias) b = rng() % 1000 < c.minus_inf * 1000 ? -INFINITY : b;
    for (int64_t h = 0; h < p.heads; ++h) {
        const double s = c.qk_norm ? 4 : 1 / std::sqrt(double(p.dim));
        p.scale.push_back(rounded(c.scale != 0 ? c.scale : h == 1 ? 0 : s * (1 + .2 * h), element));
    }
    if (c.grad_lse) fill(p.grad_lse, p.num_queries * p.heads, element, 1);
    p.qk_norm = c.qk_norm;
    p.dropout_p = c.dropout_p;
    p.seed = 0x123456789abcdefull + seed;
    return p;
}

// Values in rows that no group lists become NaN: they must not reach anything.
inline void poison_unlisted(reference::Problem& p) {
    const auto poison = [&](const reference::Groups& groups, std::vector<double>& x) {
        const int64_t size = p.heads * p.dim;
        std::vector<bool> listed(x.size() / size);
        for (int64_t m = 0; m < groups.cu_seqlens.back(); ++m) listed[groups.row(m)] = true;
        for (size_t i = 0; i < x.size(); ++i) x[i] = listed[i / size] ? x[i] : NAN;
    };
    poison(p.query, p.q);
    poison(p.query, p.grad_out);
    poison(p.key, p.k);
    poison(p.key, p.v);
}

inline void serial(int64_t n, const std::function<void(int64_t)>& body) {
    for (int64_t i = 0; i < n; ++i) body(i);
}
inline void two_threads(int64_t n, const std::function<void(int64_t)>& body) {
    std::atomic<int64_t> next{n};  // also from the last task to the first
    const auto work = [&] {
        for (int64_t i; (i = --next) >= 0;) body(i);
    };
    std::thread other(work);
    work();
    other.join();
}

struct Output {
    std::vector<char> bytes;  // of everything, to compare runs
    reference::Result values;
    bool gaps_untouched = false;
};

// |a - b| <= relative * |b| + absolute * (1 + the largest |b|), and equal infinities and NaNs.
inline void compare(const std::string& what, const std::vector<double>& a,
                    const std::vector<double>& b, double relative, double absolute) {
    double largest = 0, worst = 0;
    size_t at = 0;
    for (const double x : b) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
    bool same = a.size() == b.size();
    for (size_t i = 0; same && i < a.size(); ++i) {
        const bool equal = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
        const double error = equal ? 0 : std::fabs(a[i] - b[i]);
        const double bound = relative * std::fabs(b[i]) + absolute * (1 + largest);
        const double ratio = equal ? 0 : error / bound;
        if (!(ratio <= worst)) {
            worst = ratio;
            at = i;
        }
    }
    same = same && worst <= 1;
    check::that(same,
                what + (same ? ""
                             : ": element " + std::to_string(at) + " is " + std::to_string(a[at]) +
                                   ", expected " + std::to_string(b[at]) + ", " +
                                   std::to_string(worst) + " times the bound"));
}

// forward(problem, outputs) and backward(problem, inputs, gradients) on the arrays of a problem.
template <class Forward, class Backward>
Output run_with(const reference::Problem& p, bool keys_repeat, int pad, DType dtype,
                const Forward& forward, const Backward& backward) {
    const auto pointer = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    const auto groups = [&](const reference::Groups& g, int64_t num_rows) {
        const auto& list = g.token_index.empty() ? g.position : g.token_index;
        const int64_t entries = list.empty() ? std::min<int64_t>(num_rows, g.cu_seqlens.back())
                                             : static_cast<int64_t>(list.size());
        return unitrans::Groups{g.cu_seqlens.data(), pointer(g.token_index), pointer(g.position),
                                entries};
    };
    const bool self = p.key.cu_seqlens == p.query.cu_seqlens && !keys_repeat;
    const int64_t n = p.heads, d = p.dim;
    Array q(p.q, p.num_queries, n, d, pad, dtype), k(p.k, p.num_keys, n, d, pad, dtype);
    Array v(p.v, p.num_keys, n, d, 2 * pad, dtype);
    Array grad_out(p.grad_out, p.num_queries, n, d, pad, dtype);
    Array out(p.num_queries, n, d, pad, dtype), dq(p.num_queries, n, d, pad, dtype);
    Array dk(p.num_keys, n, d, pad, dtype), dv(p.num_keys, n, d, 3 * pad, dtype);
    const std::vector<char> bias = elements(p.bias, dtype), scale = elements(p.scale, dtype);
    const std::vector<char> grad_lse = elements(p.grad_lse, dtype);
    const std::vector<double> nan_lse(p.num_queries * n, NAN), nan_bias(n * p.bias_size, NAN),
        nan_scale(n, NAN);
    std::vector<char> lse = elements(nan_lse, dtype), dbias = elements(nan_bias, dtype);
    std::vector<char> dscale = elements(nan_scale, dtype);

    unitrans::Problem problem;
    problem.dtype = dtype;
    problem.num_queries = p.num_queries;
    problem.num_keys = p.num_keys;
    problem.num_heads = n;
    problem.head_dim = d;
    problem.bias_size = p.bias_size;
    problem.plan.num_groups = p.num_groups();
    problem.plan.query = groups(p.query, p.num_queries);
    problem.plan.key = self ? problem.plan.query : groups(p.key, p.num_keys);
    problem.plan.keys_repeat = keys_repeat;
    problem.plan.bias_offset = pointer(p.bias_offset);
    problem.plan.bias_row_stride = pointer(p.bias_row_stride);
    problem.plan.reach = pointer(p.reach);
    problem.q = q.const_rows();
    problem.k = k.const_rows();
    problem.v = v.const_rows();
    problem.bias = p.bias.empty() ? nullptr : bias.data();
    problem.scale = scale.data();
    problem.qk_norm = p.qk_norm;
    problem.dropout_p = p.dropout_p;
    problem.dropout_seed = p.seed;

    forward(problem, unitrans::ForwardOutputs{out.rows(), lse.data()});
    backward(problem,
             unitrans::BackwardInputs{
                 grad_out.const_rows(),
                 p.grad_lse.empty() ? nullptr : static_cast<const void*>(grad_lse.data())},
             unitrans::Gradients{dq.rows(), dk.rows(), dv.rows(), dbias.data(), dscale.data()});

    Output o;
    for (const std::vector<char>& bytes :
         {out.bytes(), lse, dq.bytes(), dk.bytes(), dv.bytes(), dbias, dscale}) {
        o.bytes.insert(o.bytes.end(), bytes.begin(), bytes.end());
    }
    o.values = {out.values(),
                from_elements(lse, nan_lse.size(), dtype),
                dq.values(),
                dk.values(),
                dv.values(),
                from_elements(dbias, nan_bias.size(), dtype),
                from_elements(dscale, n, dtype)};
    o.gaps_untouched =
        out.gaps_untouched() && dq.gaps_untouched() && dk.gaps_untouched() && dv.gaps_untouched();
    return o;
}

inline Output run_core(const reference::Problem& p, bool keys_repeat, int pad, DType dtype, Isa isa,
                       const unitrans::Parallel& parallel) {
    return run_with(
        p, keys_repeat, pad, dtype,
        [&](const unitrans::Problem& problem, const unitrans::ForwardOutputs& outputs) {
            unitrans::attention_forward(problem, outputs, parallel, isa);
        },
        [&](const unitrans::Problem& problem, const unitrans::BackwardInputs& inputs,
            const unitrans::Gradients& gradients) {
            unitrans::attention_backward(problem, inputs, gradients, parallel, isa);
        });
}

}  // namespace harness
