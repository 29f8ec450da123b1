// Whether the kernels may trust a plan: a quick answer for every call, and words where it is no.
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unitrans/attention.hpp"
#include "unitrans/planning.hpp"

namespace unitrans {
namespace {

int32_t wrapped(uint32_t x) { return static_cast<int32_t>(x); }

bool sizes_are_sound(const Groups& side, int64_t num_groups) {
    const int32_t* cu = side.cu_seqlens;
    if (num_groups < 0 || cu[0] != 0 || cu[num_groups] != side.num_entries) return false;
    bool falls = false;
    for (int64_t g = 0; g < num_groups; ++g) falls |= cu[g + 1] < cu[g];
    return !falls;
}

bool rows_are_sound(const Groups& side, int64_t num_rows, bool unique) {
    const int32_t* row = side.token_index;
    if (row == nullptr) return side.num_entries == num_rows;
    const uint32_t last = static_cast<uint32_t>(num_rows - 1);
    if (num_rows == 0) return side.num_entries == 0;
    int32_t signs = 0;  // below 0 once any of the numbers is: this and no branch can be vectorized
    const int64_t n = side.num_entries;
    for (int64_t m = 0; m < n; ++m) signs |= row[m] | wrapped(last - static_cast<uint32_t>(row[m]));
    if (signs < 0) return false;
    if (!unique) return true;
    if (n > num_rows) return false;
    thread_local std::vector<uint8_t> seen;
    if (seen.size() < static_cast<size_t>(num_rows)) seen.resize(static_cast<size_t>(num_rows));
    uint8_t* const count = seen.data();  // a byte may alias the vector itself
    std::memset(count, 0, static_cast<size_t>(num_rows));
    uint8_t twice = 0;
    for (int64_t m = 0; m < n; ++m) twice |= count[row[m]]++;
    return twice == 0;
}

// Places rise inside groups: whatever does not rise in the whole list is the first entry of a group.
bool places_are_sound(const Groups& side, int64_t num_groups) {
    const int32_t* place = side.position;
    const int64_t n = side.num_entries;
    if (place == nullptr || n == 0) return true;
    int32_t signs = place[0];
    int32_t falls = 0;
    for (int64_t m = 1; m < n; ++m) {
        signs |= place[m];
        falls += place[m] <= place[m - 1];
    }
    for (int64_t g = 1; g < num_groups; ++g) {
        const int64_t first = side.cu_seqlens[g];
        if (first > 0 && first < side.cu_seqlens[g + 1]) falls -= place[first] <= place[first - 1];
    }
    return signs >= 0 && falls == 0;
}

bool reach_is_sound(const int32_t* reach, int64_t num_groups) {
    if (reach == nullptr) return true;
    bool below = false;
    for (int64_t i = 0; i < 2 * num_groups; ++i) below |= reach[i] < -1;
    return !below;
}

int64_t last_place(const Groups& side, int64_t g) {
    const int64_t begin = side.cu_seqlens[g], end = side.cu_seqlens[g + 1];
    return side.position ? side.position[end - 1] : end - begin - 1;
}

bool planes_are_sound(const Plan& plan, int64_t bias_size) {
    if (plan.bias_offset == nullptr) return true;
    for (int64_t g = 0; g < plan.num_groups; ++g) {
        const int64_t offset = plan.bias_offset[g], stride = plan.bias_row_stride[g];
        if (offset < -1) return false;
        if (offset < 0 || plan.query.cu_seqlens[g] == plan.query.cu_seqlens[g + 1] ||
            plan.key.cu_seqlens[g] == plan.key.cu_seqlens[g + 1])
            continue;
        const int64_t last = last_place(plan.key, g);
        if (last >= stride || offset >= bias_size ||
            last_place(plan.query, g) * stride + last >= bias_size - offset)
            return false;
    }
    return true;
}

planning::Lists lists_of(const char* prefix, const Groups& side, int64_t num_groups,
                         int64_t num_rows) {
    const auto list = [&](const int32_t* data) -> std::optional<std::span<const int32_t>> {
        if (data == nullptr) return std::nullopt;
        return std::span(data, static_cast<size_t>(side.num_entries));
    };
    return {prefix,
            num_rows,
            {side.cu_seqlens, static_cast<size_t>(num_groups + 1)},
            list(side.token_index),
            list(side.position)};
}

}  // namespace

std::string plan_fault(const Problem& problem) {
    const Plan& plan = problem.plan;
    const int64_t groups = plan.num_groups;
    const bool is_cross = plan.key.cu_seqlens != plan.query.cu_seqlens;
    const bool keys_unique = is_cross && !plan.keys_repeat;
    const auto side_is_sound = [&](const Groups& side, int64_t num_rows, bool unique) {
        return sizes_are_sound(side, groups) && rows_are_sound(side, num_rows, unique) &&
               places_are_sound(side, groups);
    };
    if (side_is_sound(plan.query, problem.num_queries, true) &&
        (!is_cross || side_is_sound(plan.key, problem.num_keys, keys_unique)) &&
        (is_cross || problem.num_keys == problem.num_queries) &&
        reach_is_sound(plan.reach, groups) && planes_are_sound(plan, problem.bias_size))
        return {};
    try {
        if (!is_cross && problem.num_keys != problem.num_queries)
            return "k and v must have as many rows as q where no key lists are given";
        const auto queries = lists_of("", plan.query, groups, problem.num_queries);
        const auto keys = is_cross ? lists_of("key_", plan.key, groups, problem.num_keys) : queries;
        planning::check_lists(queries, /*unique=*/true);
        if (is_cross) planning::check_lists(keys, keys_unique);
        if (plan.reach) planning::check_reach({plan.reach, static_cast<size_t>(2 * groups)});
        if (plan.bias_offset) {
            const auto count = static_cast<size_t>(groups);
            planning::check_bias(queries, keys, {plan.bias_offset, count},
                                 {plan.bias_row_stride, count}, problem.bias_size);
        }
    } catch (const std::invalid_argument& fault) {
        return fault.what();
    }
    return "the lists of the plan do not fit together";
}

}  // namespace unitrans
