// The machine of cuda/src/device_team.cuh as plain loops: every statement between two collective calls runs for all threads
// of the team, one after the other. It checks indices, fragments, masks and sums. It cannot show a race or a missing
// barrier: here every statement is one.
#pragma once

#include <algorithm>
#include <vector>

#include "elements.hpp"

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
            for (int i = 0; i < n; ++i) {
                // The order of two butterfly steps; addition of two numbers commutes.
                const float all = join(join(x[t][i], x[t + 1][i]), join(x[t + 2][i], x[t + 3][i]));
                for (int u = 0; u < 4; ++u) x[t + u][i] = all;
            }
        }
    }
    template <int n>
    void quad_max(PerThread<Values<float, n>>& x) const {
        quad(x, [](float a, float b) { return std::fmax(a, b); });
    }
    template <int n>
    void quad_sum(PerThread<Values<float, n>>& x) const {
        quad(x, [](float a, float b) { return a + b; });
    }

    // PTX ISA, ldmatrix: thread t gets of each matrix the elements 2 (t % 4) and the next of row t / 4, with .trans of
    // column t / 4.
    template <bool kTransposed, class Address>
    void load_matrices(PerThread<Values<uint32_t, 4>>& m, Address&& address) const {
        for (int w = 0; w < kWarps; ++w) {
            const uint16_t* rows[32];
            for (int t = 0; t < 32; ++t) {
                rows[t] = reinterpret_cast<const uint16_t*>(address(32 * w + t));
                if (reinterpret_cast<uintptr_t>(rows[t]) % 16 != 0) std::abort();
            }
            for (int t = 0; t < 32; ++t) {
                for (int i = 0; i < 4; ++i) {
                    const int a = t / 4, b = 2 * (t % 4);
                    const uint32_t low = kTransposed ? rows[8 * i + b][a] : rows[8 * i + a][b];
                    const uint32_t high =
                        kTransposed ? rows[8 * i + b + 1][a] : rows[8 * i + a][b + 1];
                    m[32 * w + t][i] = low | high << 16;
                }
            }
        }
    }

    template <class T>
    static float half_of(uint32_t pair, int which) {
        return to_float(T{static_cast<uint16_t>(which ? pair >> 16 : pair & 0xffff)});
    }

    // PTX ISA, mma.m16n8k16: of a, thread t holds rows t / 4 (+ 8 in registers 1 and 3) and columns 2 (t % 4) and the next
    // (+ 8 in registers 2 and 3); of b, those rows (+ 8 in the second register) of column t / 4; of c, row t / 4 (+ 8 in
    // the last two) and columns 2 (t % 4) and the next.
    template <class T, int n>
    void mma(PerThread<Values<float, n>>& acc, int first, PerThread<Values<uint32_t, 4>>& a,
             PerThread<Values<uint32_t, 4>>& b, int pair) const {
        for (int w = 0; w < kWarps; ++w) {
            float x[16][16], y[16][8];
            for (int t = 0; t < 32; ++t) {
                for (int i = 0; i < 8; ++i) {
                    const int row = t / 4 + 8 * (i / 2 % 2),
                              column = 2 * (t % 4) + i % 2 + 8 * (i / 4);
                    x[row][column] = half_of<T>(a[32 * w + t][i / 2], i % 2);
                }
                for (int i = 0; i < 4; ++i) {
                    y[2 * (t % 4) + i % 2 + 8 * (i / 2)][t / 4] =
                        half_of<T>(b[32 * w + t][pair + i / 2], i % 2);
                }
            }
            for (int t = 0; t < 32; ++t) {
                for (int i = 0; i < 4; ++i) {
                    const int row = t / 4 + 8 * (i / 2), column = 2 * (t % 4) + i % 2;
                    float sum = acc[32 * w + t][first + i];
                    for (int k = 0; k < 16; ++k) sum += x[row][k] * y[k][column];
                    acc[32 * w + t][first + i] = sum;
                }
            }
        }
    }
};

}  // namespace unitrans::cuda
