// Every attention kernel of cuda/, emulated on the host, against plain loops in double: the arguments, lists and fragments are
// those of a GPU, the machine is cuda/tests/host_team.hpp or, for races and barriers, fiber_team.hpp.
#include "emulation.hpp"

#include "elements.hpp"
#include "harness.hpp"
#include "launch.hpp"

using namespace harness;
namespace gpu = unitrans::cuda;

namespace {

// Sanitizers take minutes to compile all; memory is addressed alike in these.
#if defined(__SANITIZE_ADDRESS__) || defined(UNITRANS_FIBERS)
constexpr bool kAllInstances = false;
#else
constexpr bool kAllInstances = true;
#endif

template <class F>
void with_type(DType dtype, int64_t dim, F&& f) {
    const auto with_dim = [&]<class T>() {
        if (dim <= 32) {
            f.template operator()<T, 32>();
        } else if (dim <= 64 && kAllInstances) {
            f.template operator()<T, kAllInstances ? 64 : 128>();
        } else {
            f.template operator()<T, 128>();
        }
    };
    switch (dtype) {
        case DType::kBFloat16:
            return with_dim.template operator()<gpu::BFloat16>();
        case DType::kFloat16:
            return with_dim
                .template operator()<std::conditional_t<kAllInstances, gpu::Float16, float>>();
        default:
            return with_dim.template operator()<float>();
    }
}

gpu::Sizes sizes_of(const reference::Problem& p) {
    gpu::Sizes sizes{1, 1, p.query.cu_seqlens.back(), p.key.cu_seqlens.back()};
    for (int64_t g = 0; g < p.num_groups(); ++g) {
        sizes.max_group_size = std::max<int64_t>(sizes.max_group_size,
                                                 p.query.cu_seqlens[g + 1] - p.query.cu_seqlens[g]);
        sizes.max_key_group_size = std::max<int64_t>(sizes.max_key_group_size,
                                                     p.key.cu_seqlens[g + 1] - p.key.cu_seqlens[g]);
    }
    return sizes;
}

Output run_emulated(const reference::Problem& p, const gpu::Sizes& sizes, const Case& c,
                    DType dtype, bool backwards) {
    gpu::Emulation launcher{backwards};
    const int64_t seed = static_cast<int64_t>(p.seed);
    const auto forward = [&](const unitrans::Problem& problem,
                             const unitrans::ForwardOutputs& outputs) {
        with_type(dtype, p.dim, [&]<class T, int kDim>() {
            gpu::forward<T, kDim>(launcher, {problem, sizes, &seed}, outputs);
        });
    };
    const auto backward = [&](const unitrans::Problem& problem,
                              const unitrans::BackwardInputs& inputs,
                              const unitrans::Gradients& gradients) {
        const gpu::BackwardWorkspace size(problem, sizes, true, true, nullptr);
        void* memory = std::aligned_alloc(256, size.bytes + 256);
        std::memset(memory, 0xff, size.bytes + 256);
        with_type(dtype, p.dim, [&]<class T, int kDim>() {
            gpu::backward<T, kDim>(launcher, {problem, sizes, &seed}, inputs, gradients, memory);
        });
        for (size_t b = size.bytes; b < size.bytes + 256; ++b) {
            check::that(static_cast<char*>(memory)[b] == '\xff',
                        c.name + ": wrote behind the workspace");
        }
        std::free(memory);
    };
    return run_with(p, c.repeat, c.pad, dtype, forward, backward);
}

Output run_emulated(const reference::Problem& p, const Case& c, DType dtype, bool backwards) {
    return run_emulated(p, sizes_of(p), c, dtype, backwards);
}

// Tensor cores take weights and score gradients rounded to 16 bits (as flash attention does); scores have exact products.
double unit_of(DType dtype) {
    return dtype == DType::kBFloat16 ? 0x1p-8 : dtype == DType::kFloat16 ? 0x1p-11 : 2e-6;
}

void check_case(const Case& c, DType dtype, unsigned seed, double tolerance = 1) {
    reference::Problem p = make_problem(c, dtype, seed);
    const reference::Result expected = reference::attention(p);
    if (c.shuffled) poison_unlisted(p);
    const bool half = dtype != DType::kFloat32;
    const double unit = unit_of(dtype);
    const double rel = unit * tolerance, sums = (half ? unit : 2e-6) * tolerance,
                 scores = 4e-6 * tolerance;
    const std::string name = c.name + " " + name_of(dtype) + " #" + std::to_string(seed) + " ";
    const Output one = run_emulated(p, c, dtype, false);
    const reference::Result& r = one.values;
    compare(name + "out", r.out, expected.out, rel, sums);
    compare(name + "lse", r.lse, expected.lse, scores, scores);
    compare(name + "dq", r.dq, expected.dq, rel, 2 * sums);
    compare(name + "dk", r.dk, expected.dk, rel, 2 * sums);
    compare(name + "dv", r.dv, expected.dv, rel, 2 * sums);
    compare(name + "dbias", r.dbias, expected.dbias, scores, 4 * scores);
    compare(name + "dscale", r.dscale, expected.dscale, scores, 8 * scores);
    check::that(one.gaps_untouched, name + "wrote between the rows");
    const Output two = run_emulated(p, c, dtype, true);
    check::that(one.bytes == two.bytes, name + "depends on the order of teams");
}

std::vector<Case> cases() {
    const std::vector<int> ragged = {5, 0, 1, 17, 33, 16, 2, 49, 1, 64, 7, 0};
    const std::vector<int> keys = {3, 4, 0, 33, 8, 1, 40, 20, 1, 70, 5, 2};
    const std::vector<int> windows(5, 49);
    return {
        {.name = "no group", .sizes = {}, .bias = Bias::kShared},
        {.name = "no group but tokens", .sizes = {0}, .bias = Bias::kShared, .shuffled = true},
        {.name = "plain", .sizes = ragged},
        {.name = "dim 1", .sizes = ragged, .dim = 1, .bias = Bias::kRagged},
        {.name = "dim 10", .sizes = ragged, .dim = 10, .shuffled = true, .qk_norm = true},
        {.name = "graphs",
         .sizes = {8, 13, 20, 40, 1},
         .heads = 3,
         .dim = 24,
         .bias = Bias::kRagged},
        {.name = "windows",
         .sizes = windows,
         .heads = 3,
         .dim = 32,
         .bias = Bias::kShared,
         .shuffled = true},
        {.name = "parts of windows",
         .sizes = ragged,
         .dim = 32,
         .bias = Bias::kShared,
         .shuffled = true,
         .gaps = true,
         .some_without_bias = true},
        {.name = "dim 64",
         .sizes = {70, 33},
         .heads = 1,
         .dim = 64,
         .bias = Bias::kRagged,
         .grad_lse = true},
        {.name = "dim 128", .sizes = {100}, .heads = 1, .dim = 128, .bias = Bias::kShared},
        {.name = "dim 100", .sizes = {40, 9}, .heads = 1, .dim = 100, .dropout_p = .2, .pad = 1},
        {.name = "-inf in bias",
         .sizes = ragged,
         .bias = Bias::kRagged,
         .grad_lse = true,
         .minus_inf = .6},
        {.name = "all -inf", .sizes = {9, 20}, .bias = Bias::kShared, .minus_inf = 1},
        {.name = "causal", .sizes = {150, 40}, .bias = Bias::kShared, .reach = {-1, 0}},
        {.name = "local", .sizes = {150, 7, 0}, .grad_lse = true, .dropout_p = .1, .reach = {3, 5}},
        {.name = "random reach",
         .sizes = ragged,
         .bias = Bias::kShared,
         .gaps = true,
         .random_reach = true},
        {.name = "cross",
         .sizes = ragged,
         .key_sizes = keys,
         .bias = Bias::kRagged,
         .shuffled = true},
        {.name = "cross norms",
         .sizes = ragged,
         .key_sizes = keys,
         .shuffled = true,
         .qk_norm = true},
        {.name = "cross reach", .sizes = ragged, .key_sizes = keys, .reach = {2, 1}},
        {.name = "cross repeated",
         .sizes = ragged,
         .key_sizes = keys,
         .heads = 3,
         .bias = Bias::kShared,
         .shuffled = true,
         .gaps = true,
         .repeat = true,
         .grad_lse = true,
         .qk_norm = true,
         .dropout_p = .2},
        {.name = "dropout",
         .sizes = ragged,
         .bias = Bias::kShared,
         .shuffled = true,
         .grad_lse = true,
         .dropout_p = .3},
        {.name = "qk_norm",
         .sizes = ragged,
         .dim = 20,
         .bias = Bias::kShared,
         .grad_lse = true,
         .qk_norm = true},
        {.name = "strided", .sizes = {17, 40}, .dim = 24, .bias = Bias::kShared, .pad = 8},
        {.name = "one long among small",
         .sizes = {300, 3, 4, 5, 2, 1, 9, 8, 7, 20},
         .heads = 1,
         .dim = 16},
        {.name = "long cross", .sizes = {4, 90}, .key_sizes = {300, 10}, .dim = 8, .repeat = true},
    };
}

// Rows of a plane that overlap: several pairs of a group add to one entry of d(bias).
void overlapping_planes() {
    for (const int stride : {0, 1}) {
        Case c{.name = "overlapping planes", .sizes = {20, 50}, .bias = Bias::kShared};
        reference::Problem p = make_problem(c, DType::kFloat32, 7);
        for (int32_t& s : p.bias_row_stride) s = stride;
        const reference::Result expected = reference::attention(p);
        const Output o = run_emulated(p, c, DType::kFloat32, false);
        compare("overlapping planes dbias", o.values.dbias, expected.dbias, 4e-6, 2e-5);
    }
}

// Planes of which some are shared and some are not, in more chunks than fit: fewer are used.
void chunks_that_do_not_fit() {
    Case c{.name = "far planes",
           .sizes = std::vector<int>(40, 3),
           .heads = 64,
           .dim = 4,
           .bias = Bias::kRagged};
    reference::Problem p = make_problem(c, DType::kFloat32, 9);
    for (size_t g = 1; g < p.bias_offset.size() / 2;
         g += 2) {  // every chunk from one end to the other
        std::swap(p.bias_offset[g], p.bias_offset[p.bias_offset.size() - 1 - g]);
    }
    const reference::Result expected = reference::attention(p);
    const Output o = run_emulated(p, c, DType::kFloat32, false);
    compare("far planes dbias", o.values.dbias, expected.dbias, 4e-6, 2e-5);
}

// Lists that do not fit: any numbers may come, but nothing outside the arrays is read or written (the sanitizers and the
// gaps of the arrays tell).
void damaged_lists() {
    const std::vector<int32_t> wild = {INT32_MIN, -1000000, -2, -1, 0, 3, 40, 1000000, INT32_MAX};
    std::mt19937 rng(11);
    for (const Case& c : cases()) {
        if (c.sizes.size() < 2) continue;
        for (int turn = 0; turn < 12; ++turn) {
            reference::Problem p = make_problem(c, DType::kFloat32, 1);
            const gpu::Sizes sizes = sizes_of(p);
            std::vector<std::vector<int32_t>*> lists;
            for (auto* list :
                 {&p.query.cu_seqlens, &p.query.token_index, &p.query.position, &p.key.cu_seqlens,
                  &p.key.token_index, &p.key.position, &p.bias_row_stride, &p.reach}) {
                if (!list->empty()) lists.push_back(list);
            }
            for (int i = 0; i < 3; ++i) {
                auto& list = *lists[rng() % lists.size()];
                list[rng() % list.size()] = wild[rng() % wild.size()];
            }
            if (!p.bias_offset.empty() && turn % 2) {
                p.bias_offset[rng() % p.bias_offset.size()] =
                    (turn % 4 == 1 ? int64_t{1} << 30 : 1) * wild[rng() % wild.size()];
            }
            const Output o = run_emulated(p, sizes, c, DType::kFloat32, turn % 2);
            check::that(o.gaps_untouched, c.name + " damaged: wrote between the rows");
        }
    }
}

// A row with any NaN score is NaN; other rows do not notice.
void nan_rows() {
    const Case c{.name = "NaN", .sizes = {12, 12}, .heads = 1, .bias = Bias::kRagged};
    reference::Problem p = make_problem(c, DType::kFloat32, 3);
    const int64_t row = 4;
    for (int64_t j = 0; j < 12; ++j)
        p.bias[p.bias_offset[0] + row * 12 + j] = j == 11 ? NAN : -INFINITY;
    const Output o = run_emulated(p, c, DType::kFloat32, false);
    for (int64_t i = 0; i < 24; ++i) {
        for (int64_t x = 0; x < p.dim; ++x) {
            check::that(std::isnan(o.values.out[i * p.dim + x]) == (i == row), "NaN in a row");
            check::that(std::isnan(o.values.dq[i * p.dim + x]) == (i == row), "NaN in dq");
        }
    }
}

// Rows shorter than 1e-12 are divided by 1e-12 and get no gradient; others that are short take nothing out of range.
void tiny_norms(DType dtype) {
    const Case c{.name = "tiny norm", .sizes = {6, 9, 40}, .qk_norm = true, .scale = 3};
    reference::Problem p = make_problem(c, dtype, 5);
    const auto row = [&](int64_t r) { return r * p.heads * p.dim; };
    for (int64_t x = 0; x < p.dim; ++x) {
        p.q[row(2) + x] = p.k[row(20) + x] = 0;
        p.k[row(9) + x] = rounded(1e-14, dtype);
        p.q[row(12) + x] *= 0x1p-14;  // as far as fp16 has all its bits
        p.k[row(13) + x] *= 0x1p-14;
    }
    for (int64_t x = 0; x < p.dim; ++x) {
        for (double* short_row : {&p.q[row(12) + x], &p.k[row(13) + x]})
            *short_row = rounded(*short_row, dtype);
    }
    const reference::Result expected = reference::attention(p);
    const Output o = run_emulated(p, c, dtype, false);
    const double unit = unit_of(dtype), sums = dtype == DType::kFloat32 ? 2e-6 : unit;
    const std::string name = "tiny norm " + std::string(name_of(dtype)) + " ";
    compare(name + "out", o.values.out, expected.out, unit, sums);
    compare(name + "dq", o.values.dq, expected.dq, unit, 2 * sums);
    compare(name + "dk", o.values.dk, expected.dk, unit, 2 * sums);
    for (int64_t x = 0; x < p.dim; ++x) check::that(o.values.dq[row(2) + x] == 0, name + "dq 0");
}

// The rounding of both 16-bit types, against the harness, which does it in double.
void elements() {
    std::mt19937 rng(1);
    std::normal_distribution<double> normal;
    for (int i = 0; i < 20000; ++i) {
        const float x =
            static_cast<float>(normal(rng) * std::ldexp(1.0, static_cast<int>(rng() % 34) - 20));
        const double b = gpu::to_float(gpu::from_float<gpu::BFloat16>(x));
        check::that(b == rounded(x, DType::kBFloat16), "bf16 of " + std::to_string(x));
        const double h = gpu::to_float(gpu::from_float<gpu::Float16>(x));
        check::that(h == rounded(x, DType::kFloat16), "fp16 of " + std::to_string(x));
    }
}

}  // namespace

int main() {
    elements();
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
        if (dtype == DType::kFloat16 && !kAllInstances) continue;
        for (const Case& c : cases()) check_case(c, dtype, 1);
        tiny_norms(dtype);
    }
    overlapping_planes();
    chunks_that_do_not_fit();
    nan_rows();
#ifndef UNITRANS_FIBERS  // a query that is listed twice has two writers
    damaged_lists();
#endif
    return check::finish("cuda emulation");
}
