// d(bias) in two stages. Groups are cut into chunks in list order; one team per (chunk, head) adds into a partial plane of
// its own, which reaches from the lowest to the highest entry that its groups touch. Then every entry sums its partial planes
// in order. Shared planes get as many partial ones as there are chunks, ragged planes (which do not overlap) about one in all.
//
// Where the groups of the chunks reach so far that the partial planes would not fit the memory set aside, fewer chunks are
// used, down to one: slower, never wrong. Only the device knows the lists, so it decides (ChunkKernel).
#pragma once

#include "score.hpp"

namespace unitrans::cuda {

struct BiasPlanes {
    int64_t num_chunks = 0;  // at most; 0: d(bias) is not wanted
    int64_t capacity = 0;    // entries per head that fit `data`
    float* data = nullptr;   // [chunk][head][entry of the chunk], zero at first
    int64_t* chunks =
        nullptr;  // [1 + 3 * num_chunks] chunks in use; begin, end, first entry in `data` of each

    UNITRANS_DEVICE int64_t used() const { return chunks[0]; }
    UNITRANS_DEVICE int64_t begin(int64_t c) const { return chunks[1 + 3 * c]; }
    UNITRANS_DEVICE int64_t end(int64_t c) const { return chunks[2 + 3 * c]; }
    UNITRANS_DEVICE int64_t start(int64_t c) const { return chunks[3 + 3 * c]; }

    UNITRANS_DEVICE void groups_of(int64_t chunk, int64_t num_groups, int64_t& first,
                                   int64_t& last) const {
        const int64_t n = used();
        first = chunk < n ? chunk * num_groups / n : num_groups;
        last = chunk < n ? (chunk + 1) * num_groups / n : num_groups;
    }
};

// The entries [first, last) of a group within its plane; empty without bias or without pairs.
UNITRANS_DEVICE void entries_of(const Problem& p, int64_t group, int64_t& first, int64_t& last) {
    const Pairing pair(p, group, 0);
    first = last = 0;
    if (!pair.bias || pair.num_queries == 0 || pair.num_keys == 0) return;
    const auto place = [](const Groups& list, int32_t begin, int32_t count, int64_t& low,
                          int64_t& high) {
        low = listed_place(list, begin, begin);
        high = listed_place(list, begin + count - 1, begin);
    };
    int64_t q0, q1, k0, k1;
    place(p.plan.query, pair.query_begin, pair.num_queries, q0, q1);
    place(p.plan.key, pair.key_begin, pair.num_keys, k0, k1);
    first = cut(pair.bias_offset + q0 * pair.bias_row_stride + k0, 0, p.bias_size);
    last = cut(pair.bias_offset + q1 * pair.bias_row_stride + k1 + 1, first, p.bias_size);
}

// One warp finds the chunks. Item: the only one.
struct ChunkKernel {
    struct Arguments {
        Problem problem;
        BiasPlanes planes;
    };
    static constexpr int kWarps = 1, kSharedBytes = 16;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t, char* memory) {
        const BiasPlanes& planes = a.planes;
        int32_t* fits = reinterpret_cast<int32_t*>(memory);
        for (int64_t used = planes.num_chunks;; used = (used + 1) / 2) {
            team.each([&](int t) {
                if (t == 0) planes.chunks[0] = used;
            });
            team.sync();
            team.each([&](int t) {
                for (int64_t c = t; c < used; c += Team::kThreads) bounds(a, c);
            });
            team.sync();
            team.each([&](int t) {
                if (t != 0) return;
                int64_t total = 0;
                for (int64_t c = 0; c < used; ++c) {
                    planes.chunks[3 + 3 * c] = total;
                    total += planes.end(c) - planes.begin(c);
                }
                *fits = total <= planes.capacity;
            });
            team.sync();
            if (*fits || used == 1) return;
        }
    }

    UNITRANS_DEVICE static void bounds(const Arguments& a, int64_t chunk) {
        int64_t first, last, low = 0, high = 0;
        a.planes.groups_of(chunk, a.problem.plan.num_groups, first, last);
        for (int64_t g = first; g < last; ++g) {
            int64_t begin, end;
            entries_of(a.problem, g, begin, end);
            if (begin == end) continue;
            low = high == 0 || begin < low ? begin : low;
            high = end > high ? end : high;
        }
        a.planes.chunks[1 + 3 * chunk] = low;
        a.planes.chunks[2 + 3 * chunk] = high;
    }
};

// The plane that a team adds to, addressed as the bias of the group is.
struct PartialPlane {
    float* data = nullptr;  // entry (0, 0) of the group, which may lie before the piece
    int64_t first_entry = 0, last_entry = 0;  // of the piece, counted from there
    bool aliased = false;                     // two pairs of the group may share an entry

    PartialPlane() = default;
    UNITRANS_DEVICE PartialPlane(const BiasPlanes& planes, const Problem& p, const Pairing& pair,
                                 int64_t chunk, int64_t head, int64_t group) {
        int64_t first, last;
        entries_of(p, group, first, last);
        if (first == last) return;
        const int64_t length = planes.end(chunk) - planes.begin(chunk);
        data = planes.data + planes.start(chunk) * p.num_heads + head * length + pair.bias_offset -
               planes.begin(chunk);
        first_entry = planes.begin(chunk) - pair.bias_offset;
        last_entry = planes.end(chunk) - 1 - pair.bias_offset;
        const int64_t k0 = listed_place(p.plan.key, pair.key_begin, pair.key_begin);
        const int64_t k1 =
            listed_place(p.plan.key, pair.key_begin + pair.num_keys - 1, pair.key_begin);
        aliased = pair.num_queries > 1 && pair.bias_row_stride < k1 - k0 + 1;
    }

    UNITRANS_DEVICE float& at(const Pairing& pair, int32_t query_place, int32_t key_place) const {
        return data[cut(query_place * pair.bias_row_stride + key_place, first_entry, last_entry)];
    }

    // Adds dS of a tile thread by thread: a rare plan (rows of planes that overlap) may be slow.
    template <class Team, class Accumulator, class Tiles>
    UNITRANS_DEVICE void add_in_order(Team& team, Accumulator& ds, const Tiles& tiles, int rows,
                                      int columns, int first, int from, const Pairing& pair) const {
        for (int turn = 0; turn < Team::kThreads; ++turn) {
            team.each([&](int t) {
                if (t != turn) return;
                UNITRANS_UNROLL
                for (int i = 0; i < static_cast<int>(sizeof(ds[t].x) / sizeof(float)); ++i) {
                    const int row = row_of(t, i), column = column_of(t, i);
                    if (row >= rows || column >= columns ||
                        !pair.reached(first + row, from + column))
                        continue;
                    at(pair, tiles.own.place[row], tiles.other.place[column]) += ds[t][i];
                }
            });
            team.sync();
        }
    }
};

// d(bias) entry by entry. Item: 32 entries of one head.
struct SumBiasKernel {
    struct Arguments {
        BiasPlanes planes;
        int64_t num_heads, bias_size;
        float* dbias;
    };
    static constexpr int kWarps = 1, kSharedBytes = 0;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        team.each([&](int t) {
            const int64_t index = item * Team::kThreads + t;
            if (index >= a.num_heads * a.bias_size) return;
            const int64_t head = index / a.bias_size, entry = index % a.bias_size;
            float sum = 0;
            for (int64_t c = 0; c < a.planes.used(); ++c) {
                const int64_t begin = a.planes.begin(c), end = a.planes.end(c);
                if (entry < begin || entry >= end) continue;
                sum += a.planes.data[a.planes.start(c) * a.num_heads + head * (end - begin) +
                                     entry - begin];
            }
            a.dbias[index] = sum;
        });
    }
};

// d(scale): the parts of all items of a head, by 32 threads in fixed shares. Item: a head.
struct SumScaleKernel {
    struct Arguments {
        const float* parts;
        int64_t count;
        float* dscale;
    };
    static constexpr int kWarps = 1, kSharedBytes = 32 * 8;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t head, char* memory) {
        double* sums = reinterpret_cast<double*>(memory);
        team.each([&](int t) {
            sums[t] = 0;
            for (int64_t i = t; i < a.count; i += Team::kThreads)
                sums[t] += a.parts[head * a.count + i];
        });
        team.sync();
        team.each([&](int t) {
            if (t != 0) return;
            double sum = 0;
            for (int i = 0; i < Team::kThreads; ++i) sum += sums[i];
            a.dscale[head] = static_cast<float>(sum);
        });
    }
};

// Rows of [rows, heads, dim] to one value (elements of 2 or 4 bytes). Item: 32 elements.
template <class T>
struct FillKernel {
    struct Arguments {
        Rows rows;
        int64_t count, heads, dim;
        T value;
    };
    static constexpr int kWarps = 1, kSharedBytes = 0;

    template <class Team>
    UNITRANS_DEVICE static void run(Team& team, const Arguments& a, int64_t item, char*) {
        team.each([&](int t) {
            const int64_t index = item * Team::kThreads + t;
            if (index >= a.count * a.heads * a.dim) return;
            const int64_t c = index % a.dim, h = index / a.dim % a.heads,
                          r = index / a.dim / a.heads;
            static_cast<T*>(a.rows.data)[r * a.rows.row_stride + h * a.rows.head_stride + c] =
                a.value;
        });
    }
};

}  // namespace unitrans::cuda
