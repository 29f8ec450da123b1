// A team of threads on a GPU: the machine that the kernels are written for. cuda/tests has it as plain loops (host_team.hpp)
// and with a fiber per thread (fiber_team.hpp).
//
// A team is one warp or one whole block of four; it owns a piece of shared memory. Code between two collective calls
// stands in `each`; values of a thread that outlive it are `PerThread`.
#pragma once

#include "elements.hpp"

namespace unitrans::cuda {

template <int kWarpsOfTeam>
struct DeviceTeam {
    static constexpr int kWarps = kWarpsOfTeam;
    static constexpr int kThreads = 32 * kWarps;

    template <class T>
    struct PerThread {
        T value;
        UNITRANS_DEVICE T& operator[](int) { return value; }
    };

    int rank;  // of this thread in its team

    template <class F>
    UNITRANS_DEVICE void each(F&& body) const {
        body(rank);
    }

    // All threads of the team see what all have written.
    UNITRANS_DEVICE void sync() const {
        if constexpr (kWarps == 1) {
            __syncwarp();
        } else {
            __syncthreads();
        }
    }
    // The same within every warp.
    UNITRANS_DEVICE void sync_warps() const { __syncwarp(); }

    // Over the four threads that hold one row of an accumulator.
    template <int n>
    UNITRANS_DEVICE void quad_max(PerThread<Values<float, n>>& x) const {
        UNITRANS_UNROLL
        for (int i = 0; i < n; ++i) {
            x.value[i] = fmaxf(x.value[i], __shfl_xor_sync(0xffffffffu, x.value[i], 1));
            x.value[i] = fmaxf(x.value[i], __shfl_xor_sync(0xffffffffu, x.value[i], 2));
        }
    }
    template <int n>
    UNITRANS_DEVICE void quad_sum(PerThread<Values<float, n>>& x) const {
        UNITRANS_UNROLL
        for (int i = 0; i < n; ++i) {
            x.value[i] += __shfl_xor_sync(0xffffffffu, x.value[i], 1);
            x.value[i] += __shfl_xor_sync(0xffffffffu, x.value[i], 2);
        }
    }

    // Four 8x8 matrices of 16-bit elements; address(t) is the row t % 8 of matrix t / 8 (t of the warp), 16 bytes.
    template <bool kTransposed, class Address>
    UNITRANS_DEVICE void load_matrices(PerThread<Values<uint32_t, 4>>& m, Address&& address) const {
        const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(address(rank)));
        Values<uint32_t, 4>& r = m.value;
        if constexpr (kTransposed) {
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                         : "r"(at)
                         : "memory");
        } else {
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                         : "r"(at)
                         : "memory");
        }
    }

    // acc[first .. first + 4) += a * (b[pair], b[pair + 1]), the m16n8k16 of tensor cores.
    template <class T, int n>
    UNITRANS_DEVICE void mma(PerThread<Values<float, n>>& acc, int first,
                             PerThread<Values<uint32_t, 4>>& a, PerThread<Values<uint32_t, 4>>& b,
                             int pair) const {
        float *c0 = &acc.value[first], *c1 = &acc.value[first + 1], *c2 = &acc.value[first + 2],
              *c3 = &acc.value[first + 3];
        const Values<uint32_t, 4>& x = a.value;
        if constexpr (__is_same(T, BFloat16)) {
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                "{%8,%9}, {%0,%1,%2,%3};"
                : "+f"(*c0), "+f"(*c1), "+f"(*c2), "+f"(*c3)
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(b.value[pair]),
                  "r"(b.value[pair + 1]));
        } else {
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                "{%8,%9}, {%0,%1,%2,%3};"
                : "+f"(*c0), "+f"(*c1), "+f"(*c2), "+f"(*c3)
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(b.value[pair]),
                  "r"(b.value[pair + 1]));
        }
    }
};

}  // namespace unitrans::cuda
