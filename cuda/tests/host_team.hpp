// The machine of cuda/src/device_team.cuh as plain loops: every statement between two collective calls runs for all threads
// of the team, one after the other. It checks indices, fragments, masks and sums. It cannot show a race or a missing
// barrier, as every statement is one here: for that see fiber_team.hpp.
#pragma once

#include <cstdlib>

#include "warp.hpp"

namespace unitrans::cuda {

template <int kWarpsOfTeam>
struct HostTeam {
    static constexpr int kWarps = kWarpsOfTeam;
    static constexpr int kThreads = 32 * kWarps;

    template <class T>
    struct PerThread {
        T value[kThreads];
        T& operator[](int t) { return value[t]; }
    };

    template <class F>
    void each(F&& body) const {
        for (int t = 0; t < kThreads; ++t) body(t);
    }
    void sync() const {}
    void sync_warps() const {}

    template <int n, class Join>
    static void quad(PerThread<Values<float, n>>& x, Join join) {
        for (int t = 0; t < kThreads; t += 4) {
            Values<float, n>* const threads[] = {&x[t], &x[t + 1], &x[t + 2], &x[t + 3]};
            join_quad<n>(threads, join);
        }
    }
    template <int n>
    void quad_max(PerThread<Values<float, n>>& x) const {
        quad(x, larger);
    }
    template <int n>
    void quad_sum(PerThread<Values<float, n>>& x) const {
        quad(x, sum_of);
    }

    template <bool kTransposed, class Address>
    void load_matrices(PerThread<Values<uint32_t, 4>>& m, Address&& address) const {
        for (int w = 0; w < kWarps; ++w) {
            const uint16_t* rows[32];
            for (int t = 0; t < 32; ++t) {
                rows[t] = reinterpret_cast<const uint16_t*>(address(32 * w + t));
                if (reinterpret_cast<uintptr_t>(rows[t]) % 16 != 0) std::abort();
            }
            for (int t = 0; t < 32; ++t) m[32 * w + t] = loaded_by_thread<kTransposed>(rows, t);
        }
    }

    template <class T, int n>
    void mma(PerThread<Values<float, n>>& acc, int first, PerThread<Values<uint32_t, 4>>& a,
             PerThread<Values<uint32_t, 4>>& b, int pair) const {
        for (int w = 0; w < kWarps; ++w) {
            Fragments threads[32];
            for (int t = 0; t < 32; ++t) {
                const int rank = 32 * w + t;
                threads[t] = {a[rank].x, &b[rank][pair], &acc[rank][first]};
            }
            multiply_in_warp<T>(threads);
        }
    }
};

}  // namespace unitrans::cuda
