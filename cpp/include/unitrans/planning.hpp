// Host planners: from shapes, lengths and masks to the groups that attention works on. Plain C++20.
//
// A plan lists groups of tokens of one packed stream; tokens attend within their group only. Every
// planner returns the same three lists (see Groups). What a caller can get wrong is reported by
// std::invalid_argument whose text names the list, what was expected and what came.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace unitrans::planning {

// G groups over M listed tokens.
struct Groups {
    std::vector<int32_t> cu_seqlens;   // [G + 1], starts at 0, ends at M
    std::vector<int32_t> token_index;  // [M], the row of each listed token in the stream
    std::vector<int32_t> position;     // [M], the place inside the group; empty: 0..n-1
};

// Partitions a row-major grid of any number of axes into windows, without padding or rolling.
//
// Along an axis of n tokens with window W and shift s the segments are [0, s), [s, s + W), ... and
// the rest; with s = 0 they are [0, W), [W, 2 W), ... and the rest. A group is a product of segments,
// in row-major order, its tokens row-major inside. On a map that the window divides these are exactly
// the regions of a cyclic shift with a region mask (Liu et al. 2021, section 3.2).
//
// position is the place in a full window, row-major: the segment [0, s) holds the places W - s .. W - 1,
// every other segment starts at place 0. grid >= 1, window >= 1, 0 <= shift < window on each axis.
Groups windows(std::span<const int64_t> grid, std::span<const int64_t> window,
               std::span<const int64_t> shift);

// The windows of a batch of equal grids, restricted to the visible tokens.
//
// visible: [batch, *grid], non-zero = visible. token_index counts visible tokens only (image by image,
// row-major): it addresses the compact stream. Windows without a visible token are left out.
Groups visible_windows(const uint8_t* visible, int64_t batch, std::span<const int64_t> grid,
                       std::span<const int64_t> window, std::span<const int64_t> shift);

// Tokens of one row attend iff their ids are equal; a negative id is listed nowhere; rows never mix.
// ids: [rows, columns]. Groups in order of first appearance, tokens in stream order.
Groups segments(const int64_t* ids, int64_t rows, int64_t columns);

// One group for each row: its real tokens. padding: [rows, columns], non-zero = padding.
Groups unpadded(const uint8_t* padding, int64_t rows, int64_t columns);

// Running sum of lengths >= 0, starting at 0: [G + 1].
std::vector<int32_t> cumulative(std::span<const int64_t> lengths);

// One side (queries or keys) of a hand-made plan.
struct Lists {
    std::string prefix;  // "" or "key_", to name the lists as the caller does
    int64_t num_rows;    // rows of the stream
    std::span<const int32_t> cu_seqlens;
    std::optional<std::span<const int32_t>> token_index;  // absent: the whole stream in order
    std::optional<std::span<const int32_t>> position;     // absent: 0..n-1
};

// cu_seqlens starts at 0, never falls and ends at M; rows are inside the stream and, where unique is
// asked for, listed at most once; positions are >= 0 and strictly ascending inside a group.
void check_lists(const Lists& lists, bool unique);

// reach [G, 2]: -1 (unlimited) or more.
void check_reach(std::span<const int32_t> reach);

// Every addressed bias entry is inside its row and the plane; returns the number of entries needed.
// Both sides have passed check_lists and have G groups. offset, row_stride: [G]; offset -1 is a group
// without bias. bias_size: the entries that the caller promises, or absent.
int64_t check_bias(const Lists& queries, const Lists& keys, std::span<const int64_t> offset,
                   std::span<const int32_t> row_stride, std::optional<int64_t> bias_size);

}  // namespace unitrans::planning
