// The attention core against plain loops in double, for every instruction set of this machine and
// every dtype.
#include "harness.hpp"

using namespace harness;

namespace {

void check_case(const Case& c, DType dtype, unsigned seed, double tolerance = 1) {
    reference::Problem p = make_problem(c, dtype, seed);
    const reference::Result expected = reference::attention(p);
    if (c.shuffled) poison_unlisted(p);
    // Results are rounded to the dtype; sums carry some roundings of the element type.
    const double relative[] = {2e-6, 0x1p-8, 0x1p-11, 1e-14};
    const double absolute[] = {1.5e-6, 1.5e-6, 1.5e-6, 4e-15};
    const double rel = relative[static_cast<int>(dtype)] * tolerance;
    const double abs = absolute[static_cast<int>(dtype)] * tolerance;
    const double element_rel = dtype == DType::kFloat64 ? rel : relative[0] * tolerance;
    for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
        const Isa isa = static_cast<Isa>(level);
        const std::string name =
            c.name + " " + name_of(dtype) + " " + isa_name(isa) + " #" + std::to_string(seed) + " ";
        const Output one = run_core(p, c.repeat, c.pad, dtype, isa, serial);
        const reference::Result& r = one.values;
        // Weights rounded to bf16 meet the values: the error is a share of the sum, not of what is
        // left of it.
        const bool pairs = dtype == DType::kBFloat16 && isa == Isa::kAvx512Bf16;
        const double sums = pairs ? 3e-3 * tolerance : abs, sums_rel = pairs ? rel : element_rel;
        compare(name + "out", r.out, expected.out, rel, sums);
        compare(name + "lse", r.lse, expected.lse, element_rel, abs);
        compare(name + "dq", r.dq, expected.dq, rel, 2 * sums);
        compare(name + "dk", r.dk, expected.dk, rel, 2 * sums);
        compare(name + "dv", r.dv, expected.dv, rel, 2 * sums);
        compare(name + "dbias", r.dbias, expected.dbias, element_rel, 2 * abs);
        compare(name + "dscale", r.dscale, expected.dscale, sums_rel, 8 * sums);
        check::that(one.gaps_untouched, name + "wrote between the rows");
        const Output two = run_core(p, c.repeat, c.pad, dtype, isa, two_threads);
        check::that(one.bytes == two.bytes, name + "differs with two threads");
    }
}

std::vector<Case> cases() {
    const std::vector<int> ragged = {5, 0, 1, 17, 33, 16, 2, 49, 1, 64, 7, 0};
    const std::vector<int> keys = {3, 4, 0, 33, 8, 1, 40, 20, 1, 70, 5, 2};
    const std::vector<int> windows(12, 49);
    return {
        {.name = "plain", .sizes = ragged},
        {.name = "no group", .sizes = {}, .bias = Bias::kShared},
        {.name = "no group but tokens", .sizes = {0}, .bias = Bias::kShared, .shuffled = true},
        {.name = "dim 1", .sizes = ragged, .dim = 1, .bias = Bias::kRagged},
        {.name = "dim 10", .sizes = ragged, .dim = 10, .shuffled = true, .qk_norm = true},
        {.name = "dim 24", .sizes = ragged, .heads = 3, .dim = 24, .bias = Bias::kRagged},
        {.name = "dim 256", .sizes = {20, 3}, .dim = 256, .bias = Bias::kShared},
        {.name = "dim 300", .sizes = {20, 3}, .heads = 1, .dim = 300, .pad = 1},
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
        {.name = "ragged bias",
         .sizes = ragged,
         .heads = 4,
         .dim = 8,
         .bias = Bias::kRagged,
         .some_without_bias = true,
         .grad_lse = true},
        {.name = "-inf in bias",
         .sizes = ragged,
         .bias = Bias::kRagged,
         .grad_lse = true,
         .minus_inf = .6},
        {.name = "all -inf", .sizes = {9, 20}, .bias = Bias::kShared, .minus_inf = 1},
        {.name = "causal", .sizes = ragged, .bias = Bias::kShared, .reach = {-1, 0}},
        {.name = "local", .sizes = ragged, .grad_lse = true, .dropout_p = .1, .reach = {3, 5}},
        {.name = "self only", .sizes = ragged, .reach = {0, 0}},
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
         .heads = 3,
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
        {.name = "strided", .sizes = ragged, .dim = 24, .bias = Bias::kShared, .pad = 5},
        {.name = "long", .sizes = {700, 3}, .heads = 1, .dim = 16, .bias = Bias::kShared},
        {.name = "long causal", .sizes = {500}, .dim = 40, .grad_lse = true, .reach = {-1, 0}},
        {.name = "long cross", .sizes = {4, 300}, .key_sizes = {900, 10}, .dim = 8, .repeat = true},
    };
}

// Small problems with everything at random.
Case random_case(unsigned seed) {
    std::mt19937 rng(seed);
    const auto chance = [&](unsigned n) { return rng() % n == 0; };
    Case c;
    c.name = "random";
    const int groups = 1 + static_cast<int>(rng() % 6);
    const bool cross = chance(3);
    for (int g = 0; g < groups; ++g) {
        c.sizes.push_back(static_cast<int>(rng() % 40));
        if (cross) c.key_sizes.push_back(static_cast<int>(rng() % 40));
    }
    c.heads = 1 + static_cast<int>(rng() % 4);
    c.dim = 1 + static_cast<int>(rng() % 70);
    c.bias = static_cast<Bias>(rng() % 3);
    c.shuffled = chance(2);
    c.gaps = chance(2);
    c.repeat = cross && chance(2);
    c.some_without_bias = chance(2);
    c.grad_lse = chance(2);
    c.qk_norm = chance(3) && c.dim > 2;
    c.minus_inf = chance(3) ? .5 : 0;
    c.dropout_p = chance(3) ? .25 : 0;
    c.random_reach = chance(2);
    c.pad = chance(2) ? 3 : 0;
    return c;
}

// A row with any NaN score is NaN, also when all others are -inf; other rows do not notice.
void nan_rows() {
    const Case c{.name = "NaN", .sizes = {12, 12}, .heads = 1, .bias = Bias::kRagged};
    reference::Problem p = make_problem(c, DType::kFloat32, 3);
    const int64_t row = 4, stride = 12;
    for (int64_t j = 0; j < 12; ++j) {
        p.bias[p.bias_offset[0] + row * stride + j] = -INFINITY;
        p.bias[p.bias_offset[0] + (row + 1) * stride + j] += j == 7 ? NAN : 0;
    }
    p.bias[p.bias_offset[0] + row * stride + 11] = NAN;
    for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
        const Isa isa = static_cast<Isa>(level);
        const Output o = run_core(p, false, 0, DType::kFloat32, isa, serial);
        for (int64_t i = 0; i < 24; ++i) {
            const bool expected = i == row || i == row + 1;
            for (int64_t x = 0; x < p.dim; ++x) {
                check::that(std::isnan(o.values.out[i * p.dim + x]) == expected, "NaN in a row");
                check::that(std::isnan(o.values.dq[i * p.dim + x]) == expected, "NaN in dq");
            }
            check::that(std::isnan(o.values.lse[i]) == expected, "NaN in lse");
        }
    }
}

// Scores far beyond the range of exp: one key wins, everything stays finite.
void extreme_scores() {
    for (const double scale : {50.0, 1e4, 1e12}) {
        const Case c{.name = "extreme", .sizes = {20, 33}, .scale = scale};
        reference::Problem p = make_problem(c, DType::kFloat32, 11);
        const reference::Result expected = reference::attention(p);
        for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
            const Output o =
                run_core(p, false, 0, DType::kFloat32, static_cast<Isa>(level), serial);
            // Errors of a score are multiplied with the scale, so only clear decisions compare.
            if (scale < 1e3) compare("extreme out", o.values.out, expected.out, 0, 1e-4);
            for (const auto* values : {&o.values.out, &o.values.dq, &o.values.dk, &o.values.dv}) {
                for (const double x : *values) check::that(std::isfinite(x), "extreme: finite");
            }
        }
    }
}

// Rows shorter than 1e-12 are divided by 1e-12 and get no gradient.
void tiny_norms() {
    Case c{.name = "tiny norm", .sizes = {6, 9}, .qk_norm = true, .scale = 3};
    reference::Problem p = make_problem(c, DType::kFloat32, 5);
    for (int64_t x = 0; x < p.dim; ++x) {
        p.q[2 * p.heads * p.dim + x] = 0;
        p.k[9 * p.heads * p.dim + x] = rounded(1e-14, DType::kFloat32);
    }
    const reference::Result expected = reference::attention(p);
    for (int level = 0; level <= static_cast<int>(unitrans::best_isa()); ++level) {
        const Output o = run_core(p, false, 0, DType::kFloat32, static_cast<Isa>(level), serial);
        compare("tiny norm out", o.values.out, expected.out, 2e-6, 2e-6);
        compare("tiny norm dq", o.values.dq, expected.dq, 2e-6, 4e-6);
        compare("tiny norm dk", o.values.dk, expected.dk, 2e-6, 4e-6);
        for (int64_t x = 0; x < p.dim; ++x) {
            check::that(o.values.dq[2 * p.heads * p.dim + x] == 0, "tiny norm: dq 0");
            check::that(o.values.dk[9 * p.heads * p.dim + x] == 0, "tiny norm: dk 0");
        }
    }
}

}  // namespace

int main() {
    std::printf("best instruction set: %s\n", unitrans::isa_name(unitrans::best_isa()));
    for (const DType dtype :
         {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
        for (const Case& c : cases()) check_case(c, dtype, 1);
        for (unsigned seed = 0; seed < 60; ++seed) check_case(random_case(seed), dtype, seed, 2);
    }
    nan_rows();
    extreme_scores();
    tiny_norms();
    return check::finish("attention");
}
