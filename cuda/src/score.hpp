// What a pair of tokens scores: scale, norms, bias, reach; and the dropout mask. See unitrans/attention.hpp for the formula.
#pragma once

#include "tile.hpp"

namespace unitrans::cuda {

// The arguments of every attention kernel; pointers into device memory (of the host, where kernels are emulated).
struct Call {
    Problem problem;
    const int64_t* dropout_seed = nullptr;  // read by the kernels: no call waits for the device
    uint32_t dropout_threshold = 0;         // keep words from here on
    float dropout_factor = 1;               // of what is kept
    bool vectors = false;  // rows of all arrays can be read and written 16 bytes at a time
    int32_t slots = 1;     // teams that share the tiles of a group
};

// Lists in device memory cannot be checked without waiting for them, so every number that becomes an address is cut to
// its range where it is read: a plan that does not fit gives wrong numbers, never a wild read or write.
UNITRANS_DEVICE int64_t cut(int64_t x, int64_t low, int64_t high) {
    const int64_t below = x < high ? x : high;
    return below > low ? below : low;  // an empty range gives its low end
}

// One group, one head.
struct Pairing {
    int32_t query_begin, num_queries, key_begin, num_keys;
    int32_t left, right;  // reach, -1: unlimited
    int64_t head;
    float scale;
    const float* bias;  // entry (0, 0) of the plane of this group and head; null: none
    int64_t bias_offset, bias_row_stride;
    int64_t last_entry;  // of the bias, counted from entry (0, 0)

    UNITRANS_DEVICE Pairing(const Problem& p, int64_t group, int64_t head_) {
        entries_of_group(p.plan.query, group, query_begin, num_queries);
        entries_of_group(p.plan.key, group, key_begin, num_keys);
        left = p.plan.reach ? p.plan.reach[2 * group] : -1;
        right = p.plan.reach ? p.plan.reach[2 * group + 1] : -1;
        head = head_;
        scale = static_cast<const float*>(p.scale)[head];
        bias_offset = p.plan.bias_offset ? p.plan.bias_offset[group] : -1;
        bias_row_stride = p.plan.bias_offset ? p.plan.bias_row_stride[group] : 0;
        last_entry = p.bias_size - 1 - bias_offset;
        bias = p.bias && bias_offset >= 0 && last_entry >= 0
                   ? static_cast<const float*>(p.bias) + head * p.bias_size + bias_offset
                   : nullptr;
    }

    UNITRANS_DEVICE static void entries_of_group(const Groups& list, int64_t group, int32_t& begin,
                                                 int32_t& count) {
        const int64_t first = cut(list.cu_seqlens[group], 0, list.num_entries);
        begin = static_cast<int32_t>(first);
        count =
            static_cast<int32_t>(cut(list.cu_seqlens[group + 1], first, list.num_entries) - first);
    }

    // Of the places of a query and a key, counted from entry (0, 0).
    UNITRANS_DEVICE int64_t entry(int32_t query_place, int32_t key_place) const {
        return cut(query_place * bias_row_stride + key_place, 0, last_entry);
    }

    UNITRANS_DEVICE bool reached(int query, int key) const {
        return query < num_queries && key < num_keys && (left < 0 || query - key <= left) &&
               (right < 0 || key - query <= right);
    }
    // The part of the other side that anything of [begin, end) of this side can reach.
    UNITRANS_DEVICE void reach_of_queries(int begin, int end, int& first, int& last) const {
        first = left < 0 || begin < left ? 0 : begin - left;
        last = right < 0 || num_keys - right < end ? num_keys : end + right;
        last = last < num_keys ? last : num_keys;
    }
    UNITRANS_DEVICE void reach_of_keys(int begin, int end, int& first, int& last) const {
        first = right < 0 || begin < right ? 0 : begin - right;
        last = left < 0 || num_queries - left < end ? num_queries : end + left;
        last = last < num_queries ? last : num_queries;
    }
};

UNITRANS_DEVICE int32_t listed_row(const Groups& list, int32_t entry, int64_t num_rows) {
    const int32_t row = list.token_index ? list.token_index[entry] : entry;
    return static_cast<int32_t>(cut(row, 0, num_rows - 1));
}
UNITRANS_DEVICE int32_t listed_place(const Groups& list, int32_t entry, int32_t begin) {
    return list.position ? list.position[entry] : entry - begin;
}

// Rows and places of a part of a group, in shared memory.
struct Listed {
    int32_t* row;
    int32_t* place;

    template <class Team>
    UNITRANS_DEVICE void load(Team& team, const Groups& list, int64_t num_rows, int32_t group_begin,
                              int first, int count) const {
        const Listed self = *this;
        team.each([&](int t) {
            for (int i = t; i < count; i += Team::kThreads) {
                self.row[i] = listed_row(list, group_begin + first + i, num_rows);
                self.place[i] = listed_place(list, group_begin + first + i, group_begin);
            }
        });
    }
};

// Philox4x32-10 (Salmon et al., SC 2011): word key_row % 4 of counter (query_row, key_row / 4, head, 0). Every pair computes
// its own; sharing the four words of a counter between neighbours is left for a GPU to decide.
UNITRANS_DEVICE uint32_t philox_word(uint32_t query_row, uint32_t key_row, uint32_t head,
                                     uint64_t seed) {
    uint32_t c0 = query_row, c1 = key_row / 4, c2 = head, c3 = 0;
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    UNITRANS_ROLL  // it stands once per element of a tile: unrolled it would be most of the program
        for (int round = 0; round < 10; ++round) {
        const uint64_t even = static_cast<uint64_t>(0xD2511F53u) * c0,
                       odd = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32_t>(odd >> 32) ^ c1 ^ key0;
        c1 = static_cast<uint32_t>(odd);
        c2 = static_cast<uint32_t>(even >> 32) ^ c3 ^ key1;
        c3 = static_cast<uint32_t>(even);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    const uint32_t word = key_row % 4;
    return word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
}

struct Dropout {
    uint64_t seed;
    uint32_t threshold, head;
    float factor;
    bool on;

    UNITRANS_DEVICE Dropout(const Call& call, int64_t head_)
        : seed(call.dropout_seed ? static_cast<uint64_t>(*call.dropout_seed) : 0),
          threshold(call.dropout_threshold),
          head(static_cast<uint32_t>(head_)),
          factor(call.dropout_factor),
          on(call.problem.dropout_p > 0) {}

    // What the weight of a pair is multiplied with.
    UNITRANS_DEVICE float keep(int32_t query_row, int32_t key_row) const {
        if (!on) return 1;
        return philox_word(query_row, key_row, head, seed) >= threshold ? factor : 0.0f;
    }
};

UNITRANS_DEVICE constexpr float minus_infinity() { return -__builtin_huge_valf(); }

}  // namespace unitrans::cuda
