#include "unitrans/planning.hpp"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace unitrans::planning {
namespace {

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

// A run of tokens along one axis that falls into one window.
struct Segment {
    int64_t begin, size;
    int64_t place;  // of its first token in the full window
};

std::vector<Segment> axis_segments(int64_t length, int64_t window, int64_t shift) {
    std::vector<Segment> segments;
    if (shift > 0) segments.push_back({0, std::min(shift, length), window - shift});
    for (int64_t begin = shift; begin < length; begin += window) {
        segments.push_back({begin, std::min(window, length - begin), 0});
    }
    return segments;
}

// Steps a row-major counter over the first `axes` axes; false when it has wrapped around.
template <class Size>
bool advance(std::vector<int64_t>& counter, size_t axes, const Size& size) {
    for (size_t axis = axes; axis-- > 0;) {
        if (++counter[axis] < size(axis)) return true;
        counter[axis] = 0;
    }
    return false;
}

struct Partition {
    std::vector<std::vector<Segment>> axes;
    std::vector<int64_t> grid_stride, place_stride;
    int64_t num_tokens = 1;

    Partition(std::span<const int64_t> grid, std::span<const int64_t> window,
              std::span<const int64_t> shift) {
        const size_t rank = grid.size();
        if (rank == 0 || window.size() != rank || shift.size() != rank) {
            fail("grid, window_size and shift_size must name the same axes (at least one), got ",
                 rank, ", ", window.size(), " and ", shift.size(), " of them");
        }
        grid_stride.assign(rank, 1);
        place_stride.assign(rank, 1);
        int64_t places = 1;
        for (size_t axis = rank; axis-- > 0;) {
            if (grid[axis] < 1)
                fail("grid must be at least 1 on axis ", axis, ", got ", grid[axis]);
            if (window[axis] < 1) {
                fail("window_size must be at least 1 on axis ", axis, ", got ", window[axis]);
            }
            if (shift[axis] < 0 || shift[axis] >= window[axis]) {
                fail("shift_size must be in [0, window_size) on axis ", axis, ", got ", shift[axis],
                     " for a window of ", window[axis]);
            }
            grid_stride[axis] = num_tokens;
            place_stride[axis] = places;
            if (grid[axis] > kMaxTokens / num_tokens) {
                fail("grid must hold at most ", kMaxTokens, " tokens");
            }
            if (window[axis] > kMaxTokens / places) {
                fail("window_size must hold at most ", kMaxTokens, " places");
            }
            num_tokens *= grid[axis];
            places *= window[axis];
        }
        for (size_t axis = 0; axis < rank; ++axis) {
            axes.push_back(axis_segments(grid[axis], window[axis], shift[axis]));
        }
    }

    // Calls run(first token, first place, length) for each row of each window, then end() per window.
    template <class Run, class End>
    void walk(const Run& run, const End& end) const {
        const size_t rank = axes.size();
        std::vector<int64_t> window(rank, 0), row(rank, 0);
        const auto segment = [&](size_t axis) -> const Segment& {
            return axes[axis][window[axis]];
        };
        do {
            do {
                int64_t token = 0, place = 0;
                for (size_t axis = 0; axis < rank; ++axis) {
                    token += (segment(axis).begin + row[axis]) * grid_stride[axis];
                    place += (segment(axis).place + row[axis]) * place_stride[axis];
                }
                run(token, place, segment(rank - 1).size);
            } while (advance(row, rank - 1, [&](size_t axis) { return segment(axis).size; }));
            end();
        } while (advance(window, rank,
                         [&](size_t axis) { return static_cast<int64_t>(axes[axis].size()); }));
    }
};

void check_rows(int64_t rows, int64_t columns) {
    if (columns > 0 && rows > kMaxTokens / columns) {
        fail("a stream holds at most ", kMaxTokens, " tokens, got ", rows, " rows of ", columns);
    }
}

int64_t num_groups(const Lists& lists) { return static_cast<int64_t>(lists.cu_seqlens.size()) - 1; }

// The largest position of a group that is not empty.
int64_t last_position(const Lists& lists, int64_t group) {
    const int64_t begin = lists.cu_seqlens[group], end = lists.cu_seqlens[group + 1];
    return lists.position ? (*lists.position)[end - 1] : end - begin - 1;
}

bool is_empty(const Lists& lists, int64_t group) {
    return lists.cu_seqlens[group] == lists.cu_seqlens[group + 1];
}

void check_cu_seqlens(const Lists& lists, int64_t num_listed) {
    const auto& cu = lists.cu_seqlens;
    const std::string name = lists.prefix + "cu_seqlens";
    if (cu.empty()) fail(name, " must have at least one entry (a 0), got none");
    if (cu[0] != 0) fail(name, " must start at 0, got ", cu[0]);
    for (size_t i = 1; i < cu.size(); ++i) {
        if (cu[i] < cu[i - 1]) {
            fail(name, " must not fall, got ", cu[i - 1], " then ", cu[i], " at group ", i - 1);
        }
    }
    if (cu.back() != num_listed) {
        fail(name, " must end at the ", num_listed, " listed tokens, got ", cu.back());
    }
}

void check_token_index(const Lists& lists, bool unique) {
    const std::string name = lists.prefix + "token_index";
    std::vector<bool> listed(unique ? lists.num_rows : 0, false);
    for (const int32_t token : *lists.token_index) {
        if (token < 0 || token >= lists.num_rows) {
            fail(name, " must be in [0, ", lists.num_rows, "), got ", token);
        }
        if (!unique) continue;
        if (listed[token]) fail(name, " may list a query once only, got ", token, " twice");
        listed[token] = true;
    }
}

void check_position(const Lists& lists) {
    const std::string name = lists.prefix + "position";
    const auto& position = *lists.position;
    if (position.size() != static_cast<size_t>(lists.cu_seqlens.back())) {
        fail(name, " must have one entry for each of the ", lists.cu_seqlens.back(),
             " listed tokens, got ", position.size());
    }
    for (int64_t group = 0; group < num_groups(lists); ++group) {
        int64_t previous = -1;
        for (int64_t i = lists.cu_seqlens[group]; i < lists.cu_seqlens[group + 1]; ++i) {
            if (position[i] < 0) fail(name, " must be at least 0, got ", position[i]);
            if (position[i] <= previous) {
                fail(name, " must be strictly ascending inside a group, got ", previous, " then ",
                     position[i], " in group ", group, "; sort the tokens of a group by place");
            }
            previous = position[i];
        }
    }
}

}  // namespace

Groups windows(std::span<const int64_t> grid, std::span<const int64_t> window,
               std::span<const int64_t> shift) {
    const Partition partition(grid, window, shift);
    Groups groups;
    groups.cu_seqlens.push_back(0);
    groups.token_index.reserve(partition.num_tokens);
    groups.position.reserve(partition.num_tokens);
    partition.walk(
        [&](int64_t token, int64_t place, int64_t length) {
            for (int64_t i = 0; i < length; ++i) {
                groups.token_index.push_back(static_cast<int32_t>(token + i));
                groups.position.push_back(static_cast<int32_t>(place + i));
            }
        },
        [&] { groups.cu_seqlens.push_back(static_cast<int32_t>(groups.token_index.size())); });
    return groups;
}

Groups visible_windows(const uint8_t* visible, int64_t batch, std::span<const int64_t> grid,
                       std::span<const int64_t> window, std::span<const int64_t> shift) {
    const Partition partition(grid, window, shift);
    check_rows(batch, partition.num_tokens);
    Groups groups;
    groups.cu_seqlens.push_back(0);
    std::vector<int32_t> rank(partition.num_tokens);  // of each visible token in the compact stream
    int32_t num_visible = 0;
    for (int64_t image = 0; image < batch; ++image) {
        const uint8_t* seen = visible + image * partition.num_tokens;
        for (int64_t token = 0; token < partition.num_tokens; ++token) {
            rank[token] = num_visible;
            num_visible += seen[token] != 0;
        }
        partition.walk(
            [&](int64_t token, int64_t place, int64_t length) {
                for (int64_t i = 0; i < length; ++i) {
                    if (!seen[token + i]) continue;
                    groups.token_index.push_back(rank[token + i]);
                    groups.position.push_back(static_cast<int32_t>(place + i));
                }
            },
            [&] {
                const auto end = static_cast<int32_t>(groups.token_index.size());
                if (end > groups.cu_seqlens.back()) groups.cu_seqlens.push_back(end);
            });
    }
    return groups;
}

Groups segments(const int64_t* ids, int64_t rows, int64_t columns) {
    check_rows(rows, columns);
    std::vector<int64_t> lengths;
    std::vector<int32_t> group_of(rows * columns, -1);
    for (int64_t row = 0; row < rows; ++row) {
        std::unordered_map<int64_t, int32_t> groups_of_row;
        for (int64_t token = row * columns; token < (row + 1) * columns; ++token) {
            if (ids[token] < 0) continue;
            const auto next = static_cast<int32_t>(lengths.size());
            const auto [entry, is_new] = groups_of_row.try_emplace(ids[token], next);
            if (is_new) lengths.push_back(0);
            group_of[token] = entry->second;
            ++lengths[entry->second];
        }
    }
    Groups groups{cumulative(lengths), {}, {}};
    groups.token_index.resize(groups.cu_seqlens.back());
    std::vector<int32_t> end(groups.cu_seqlens.begin(), groups.cu_seqlens.end() - 1);
    for (int64_t token = 0; token < rows * columns; ++token) {
        if (group_of[token] >= 0)
            groups.token_index[end[group_of[token]]++] = static_cast<int32_t>(token);
    }
    return groups;
}

Groups unpadded(const uint8_t* padding, int64_t rows, int64_t columns) {
    check_rows(rows, columns);
    Groups groups;
    groups.cu_seqlens.push_back(0);
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t token = row * columns; token < (row + 1) * columns; ++token) {
            if (!padding[token]) groups.token_index.push_back(static_cast<int32_t>(token));
        }
        groups.cu_seqlens.push_back(static_cast<int32_t>(groups.token_index.size()));
    }
    return groups;
}

std::vector<int32_t> cumulative(std::span<const int64_t> lengths) {
    std::vector<int32_t> sums{0};
    sums.reserve(lengths.size() + 1);
    int64_t sum = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i] < 0) fail("lengths must be at least 0, got ", lengths[i], " for group ", i);
        if (lengths[i] > kMaxTokens - sum) fail("a stream holds at most ", kMaxTokens, " tokens");
        sums.push_back(static_cast<int32_t>(sum += lengths[i]));
    }
    return sums;
}

void check_lists(const Lists& lists, bool unique) {
    const std::string rows = lists.prefix.empty() ? "num_tokens" : "num_keys";
    if (lists.num_rows < 0 || lists.num_rows > kMaxTokens) {
        fail(rows, " must be in [0, ", kMaxTokens, "], got ", lists.num_rows);
    }
    check_cu_seqlens(lists, lists.token_index ? static_cast<int64_t>(lists.token_index->size())
                                              : lists.num_rows);
    if (lists.token_index) check_token_index(lists, unique);
    if (lists.position) check_position(lists);
}

void check_reach(std::span<const int32_t> reach) {
    for (size_t i = 0; i < reach.size(); ++i) {
        if (reach[i] < -1) {
            fail("reach must be at least 0, or -1 for unlimited, got ", reach[i], " for group ",
                 i / 2);
        }
    }
}

int64_t check_bias(const Lists& queries, const Lists& keys, std::span<const int64_t> offset,
                   std::span<const int32_t> row_stride, std::optional<int64_t> bias_size) {
    int64_t needed = 0;
    for (int64_t group = 0; group < num_groups(queries); ++group) {
        if (offset[group] < -1) {
            fail("bias_offset must be at least 0, or -1 for a group without bias, got ",
                 offset[group], " for group ", group);
        }
        if (offset[group] < 0 || is_empty(queries, group) || is_empty(keys, group)) continue;
        const int64_t last_query = last_position(queries, group),
                      last_key = last_position(keys, group);
        if (last_key >= row_stride[group]) {
            fail("bias_row_stride must exceed every key position of its group, got ",
                 row_stride[group], " for position ", last_key, " in group ", group);
        }
        const int64_t entries = last_query * row_stride[group] + last_key + 1;
        if (entries > std::numeric_limits<int64_t>::max() - offset[group]) {
            fail("bias_offset is too large: ", offset[group], " for group ", group);
        }
        needed = std::max(needed, offset[group] + entries);
        if (bias_size && needed > *bias_size) {
            fail("bias_size must hold every addressed entry: group ", group, " needs ", needed,
                 ", got ", *bias_size);
        }
    }
    return needed;
}

}  // namespace unitrans::planning
