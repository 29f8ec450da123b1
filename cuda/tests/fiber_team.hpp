// The machine of cuda/src/device_team.cuh with a fiber per thread, and the launcher for it: every thread runs the kernel on
// its own, as on a GPU, and meets others at barriers and at the instructions of its warp.
#pragma once

#include <cstdlib>
#include <cstring>

#include "fibers.hpp"
#include "warp.hpp"

namespace unitrans::cuda {

template <int kWarpsOfTeam>
struct FiberTeam {
    static constexpr int kWarps = kWarpsOfTeam;
    static constexpr int kThreads = 32 * kWarps;

    template <class T>
    struct PerThread {
        T value;
        T& operator[](int) { return value; }
    };

    int rank;
    Fibers& fibers;

    template <class F>
    void each(F&& body) const {
        body(rank);
    }
    void sync() const { fibers.barrier(true); }
    void sync_warps() const { fibers.barrier(false); }

    template <int n, class Join>
    void quad(PerThread<Values<float, n>>& x, Join join) const {
        fibers.together(Fibers::Call::kShuffle, &x.value, [&](void* const* given) {
            for (int t = 0; t < 32; t += 4) {
                join_quad<n>(reinterpret_cast<Values<float, n>* const*>(given + t), join);
            }
        });
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
        struct Rows {
            const uint16_t *own, *all[32];
        } rows;
        rows.own = reinterpret_cast<const uint16_t*>(address(rank));
        fibers.together(Fibers::Call::kLoadMatrices, &rows, [](void* const* given) {
            for (int t = 0; t < 32; ++t) {
                for (int u = 0; u < 32; ++u) {
                    static_cast<Rows*>(given[t])->all[u] = static_cast<Rows*>(given[u])->own;
                }
            }
        });
        // Whoever gives an address reads there, and so does who gets the values.
        if (reinterpret_cast<uintptr_t>(rows.own) % 16 != 0) std::abort();
        uint16_t own[8];
        std::memcpy(own, rows.own, sizeof(own));
        m.value = loaded_by_thread<kTransposed>(rows.all, rank % 32);
    }

    template <class T, int n>
    void mma(PerThread<Values<float, n>>& acc, int first, PerThread<Values<uint32_t, 4>>& a,
             PerThread<Values<uint32_t, 4>>& b, int pair) const {
        Fragments own{a.value.x, &b.value[pair], &acc.value[first]};
        fibers.together(Fibers::Call::kMma, &own, [](void* const* given) {
            Fragments threads[32];
            for (int t = 0; t < 32; ++t) threads[t] = *static_cast<Fragments*>(given[t]);
            multiply_in_warp<T>(threads);
        });
    }
};

struct FiberLauncher {
    bool backwards =
        false;  // the order of items and of the threads of a team, which must not matter

    void zero(void* data, int64_t bytes) { std::memset(data, 0, bytes); }

    template <class Kernel>
    void run(const typename Kernel::Arguments& arguments, int64_t items) {
        constexpr int kThreads = 32 * Kernel::kWarps;
        char launch, finished;
        const auto body = [&](Fibers& fibers) -> Fibers::Body {
            return [&](int rank, int64_t item, char* memory) {
                FiberTeam<Kernel::kWarps> team{rank, fibers};
                Kernel::run(team, arguments, item, memory);
            };
        };
        Fibers* const teams[] = {&Fibers::team(kThreads, 0), &Fibers::team(kThreads, 1)};
        const Fibers::Body bodies[] = {body(*teams[0]), body(*teams[1])};
        __tsan_release(&launch);  // a kernel sees what came before it in the stream
        for (int64_t i = 0; i < items; ++i) {
            const int which = (backwards ? i / 2 : i) % 2;
            teams[which]->run(backwards ? items - 1 - i : i, bodies[which], Kernel::kSharedBytes,
                              backwards, &launch, &finished);
        }
        __tsan_acquire(&finished);  // and what follows sees what it wrote
    }
};

}  // namespace unitrans::cuda
