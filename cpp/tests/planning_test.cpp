// The host planners against definitions written out token by token, without Torch and Python.
#include "unitrans/planning.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using namespace unitrans::planning;
using Ints = std::vector<int32_t>;
using Sizes = std::vector<int64_t>;

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                         \
        }                                                                         \
    } while (false)

namespace {

// The window (per axis) and the place of a token, from the definition: the map is cut at the shift and
// then every `window` tokens; the piece before the shift is the end of a window.
struct Home {
    Sizes window;
    int64_t place = 0;
};

Home home_of(int64_t token, const Sizes& grid, const Sizes& window, const Sizes& shift) {
    Home home;
    home.window.resize(grid.size());
    int64_t place_stride = 1;
    for (size_t axis = grid.size(); axis-- > 0;) {
        const int64_t at = token % grid[axis] + window[axis] - shift[axis];
        token /= grid[axis];
        home.window[axis] = at / window[axis];
        home.place += at % window[axis] * place_stride;
        place_stride *= window[axis];
    }
    return home;
}

void check_windows(const Sizes& grid, const Sizes& window, const Sizes& shift) {
    int64_t num_tokens = 1;
    for (const int64_t n : grid) num_tokens *= n;
    std::map<Sizes, std::pair<Ints, Ints>> expected;  // ordered by window, tokens ascending
    std::vector<uint8_t> visible(num_tokens);
    for (int64_t token = 0; token < num_tokens; ++token) {
        const Home home = home_of(token, grid, window, shift);
        expected[home.window].first.push_back(static_cast<int32_t>(token));
        expected[home.window].second.push_back(static_cast<int32_t>(home.place));
        visible[token] = token % 3 != 1;
    }
    const Groups all = windows(grid, window, shift);
    Ints cu{0}, index, position, seen_cu{0}, seen_index, seen_position;
    Ints rank(num_tokens);
    for (int64_t token = 0, seen = 0; token < num_tokens; ++token) {
        rank[token] = static_cast<int32_t>(seen);
        seen += visible[token];
    }
    for (const auto& [key, lists] : expected) {
        for (size_t i = 0; i < lists.first.size(); ++i) {
            index.push_back(lists.first[i]);
            position.push_back(lists.second[i]);
            if (!visible[lists.first[i]]) continue;
            seen_index.push_back(rank[lists.first[i]]);
            seen_position.push_back(lists.second[i]);
        }
        cu.push_back(static_cast<int32_t>(index.size()));
        if (static_cast<int32_t>(seen_index.size()) > seen_cu.back()) {
            seen_cu.push_back(static_cast<int32_t>(seen_index.size()));
        }
    }
    CHECK(all.cu_seqlens == cu && all.token_index == index && all.position == position);
    const Groups some = visible_windows(visible.data(), 1, grid, window, shift);
    CHECK(some.cu_seqlens == seen_cu && some.token_index == seen_index &&
          some.position == seen_position);
}

void test_windows() {
    for (int64_t height = 1; height <= 9; ++height) {
        for (int64_t width = 1; width <= 7; ++width) {
            for (int64_t shift = 0; shift < 3; ++shift) {
                check_windows({height, width}, {3, 4}, {shift, shift});
                check_windows({height, width}, {4, 3}, {shift + 1, 0});
            }
        }
    }
    check_windows({11}, {4}, {3});
    check_windows({4, 5, 6}, {2, 3, 4}, {1, 0, 2});
    check_windows({2, 3, 2, 5}, {2, 2, 3, 3}, {1, 1, 0, 2});
}

void test_batch_of_visible_windows() {
    const std::vector<uint8_t> visible{0, 0, 0, 0, /* second image */ 1, 0, 1, 1};
    const Groups groups = visible_windows(visible.data(), 2, Sizes{2, 2}, Sizes{2, 2}, Sizes{0, 0});
    CHECK((groups.cu_seqlens == Ints{0, 3}));
    CHECK((groups.token_index == Ints{0, 1, 2}));
    CHECK((groups.position == Ints{0, 2, 3}));
}

void test_segments() {
    const Sizes ids{5, -1, 5, 2, /* second row */ 2, 2, 5, -7};
    const Groups groups = segments(ids.data(), 2, 4);
    CHECK((groups.cu_seqlens == Ints{0, 2, 3, 5, 6}));
    CHECK((groups.token_index == Ints{0, 2, 3, 4, 5, 6}));
    CHECK((segments(ids.data(), 0, 0).cu_seqlens == Ints{0}));
}

void test_unpadded() {
    const std::vector<uint8_t> padding{0, 0, 1, /* */ 1, 1, 1, /* */ 1, 0, 0};
    const Groups groups = unpadded(padding.data(), 3, 3);
    CHECK((groups.cu_seqlens == Ints{0, 2, 2, 4}));
    CHECK((groups.token_index == Ints{0, 1, 7, 8}));
}

// The call must be refused, and the message must name the cause.
void refused(const std::string& part, const std::function<void()>& call) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        if (std::string(error.what()).find(part) == std::string::npos) {
            std::printf("expected a message with '%s', got: %s\n", part.c_str(), error.what());
            std::exit(1);
        }
        return;
    }
    std::printf("not refused: %s\n", part.c_str());
    std::exit(1);
}

void test_bad_requests() {
    const auto make = [](Sizes grid, Sizes window, Sizes shift) {
        return [=] { windows(grid, window, shift); };
    };
    refused("grid must be at least 1 on axis 1", make({4, 0}, {2, 2}, {0, 0}));
    refused("window_size must be at least 1", make({4, 4}, {2, 0}, {0, 0}));
    refused("shift_size must be in [0, window_size) on axis 0", make({4, 4}, {2, 2}, {2, 0}));
    refused("shift_size must be in [0, window_size)", make({4, 4}, {2, 2}, {0, -1}));
    refused("same axes", make({4, 4}, {2}, {0, 0}));
    refused("at most 2147483647 tokens", make({1 << 20, 1 << 20}, {2, 2}, {0, 0}));
    refused("at most 2147483647 places", make({4, 4}, {1 << 20, 1 << 20}, {0, 0}));
    refused("lengths must be at least 0, got -1 for group 1", [] { cumulative(Sizes{3, -1}); });
    refused("at most 2147483647 tokens", [] { cumulative(Sizes{1LL << 30, 1LL << 30}); });
}

void test_check_of_lists() {
    const auto side = [](int64_t rows, const Ints& cu, const Ints* index, const Ints* position) {
        Lists lists{"", rows, cu, {}, {}};
        if (index) lists.token_index = *index;
        if (position) lists.position = *position;
        return lists;
    };
    const Ints cu{0, 2, 3}, index{4, 1, 0}, twice{4, 1, 4}, outside{4, 1, 5};
    const Ints position{0, 7, 3}, falling{7, 0, 3}, equal{1, 1, 3}, negative{-1, 0, 3};
    check_lists(side(5, cu, &index, &position), true);
    check_lists(side(5, cu, &twice, nullptr), false);
    check_lists(side(3, cu, nullptr, nullptr), true);
    refused("start at 0", [&] { check_lists(side(3, Ints{1, 3}, nullptr, nullptr), true); });
    refused("not fall", [&] { check_lists(side(3, Ints{0, 4, 3}, nullptr, nullptr), true); });
    refused("end at the 4 listed", [&] { check_lists(side(4, cu, nullptr, nullptr), true); });
    refused("at least one entry", [&] { check_lists(side(0, Ints{}, nullptr, nullptr), true); });
    refused("once only", [&] { check_lists(side(5, cu, &twice, nullptr), true); });
    refused("[0, 5), got 5", [&] { check_lists(side(5, cu, &outside, nullptr), true); });
    refused("strictly ascending", [&] { check_lists(side(5, cu, &index, &falling), true); });
    refused("strictly ascending", [&] { check_lists(side(5, cu, &index, &equal), true); });
    refused("at least 0", [&] { check_lists(side(5, cu, &index, &negative), true); });
}

void test_check_of_bias() {
    const Ints cu{0, 2, 2, 3}, stride{8, 1, 8};
    const std::vector<int64_t> offset{10, 5, -1}, below{-2, 0, 0};
    const Lists lists{"", 3, cu, {}, {}};
    // Group 0 reads up to 10 + 1 * 8 + 1; group 1 is empty; group 2 has no bias.
    CHECK(check_bias(lists, lists, offset, stride, {}) == 20);
    CHECK(check_bias(lists, lists, offset, stride, 20) == 20);
    refused("needs 20, got 19", [&] { check_bias(lists, lists, offset, stride, 19); });
    refused("-1 for a group without bias", [&] { check_bias(lists, lists, below, stride, {}); });
    refused("bias_row_stride", [&] { check_bias(lists, lists, offset, Ints{1, 1, 1}, {}); });
    const std::vector<int64_t> huge{std::numeric_limits<int64_t>::max() - 2, 0, 0};
    refused("too large", [&] { check_bias(lists, lists, huge, stride, {}); });
}

}  // namespace

int main() {
    test_windows();
    test_batch_of_visible_windows();
    test_segments();
    test_unpadded();
    test_bad_requests();
    test_check_of_lists();
    test_check_of_bias();
    std::puts("planning: all checks passed");
}
