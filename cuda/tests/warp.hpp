// What the instructions of a warp do with the registers of its 32 threads.
#pragma once

#include "elements.hpp"

namespace unitrans::cuda {

// PTX ISA, ldmatrix: of each of four 8x8 matrices thread t gets the elements 2 (t % 4) and the next of row t / 4, with .trans
// of column t / 4. rows[8 i + r]: row r of matrix i.
template <bool kTransposed>
Values<uint32_t, 4> loaded_by_thread(const uint16_t* const* rows, int t) {
    Values<uint32_t, 4> m;
    const int a = t / 4, b = 2 * (t % 4);
    for (int i = 0; i < 4; ++i) {
        const uint32_t low = kTransposed ? rows[8 * i + b][a] : rows[8 * i + a][b];
        const uint32_t high = kTransposed ? rows[8 * i + b + 1][a] : rows[8 * i + a][b + 1];
        m[i] = low | high << 16;
    }
    return m;
}

// What a thread gives to an mma: its four registers of a, two of b, four sums.
struct Fragments {
    const uint32_t *a, *b;
    float* c;
};

// PTX ISA, mma.m16n8k16: of a, thread t holds rows t / 4 (+ 8 in registers 1 and 3) and columns 2 (t % 4) and the next (+ 8
// in registers 2 and 3); of b, those rows (+ 8 in the second register) of column t / 4; of c, row t / 4 (+ 8 in the last
// two) and columns 2 (t % 4) and the next.
template <class T>
void multiply_in_warp(const Fragments* threads) {
    const auto half = [](uint32_t pair, int which) {
        return to_float(T{static_cast<uint16_t>(which ? pair >> 16 : pair & 0xffff)});
    };
    float x[16][16], y[16][8];
    for (int t = 0; t < 32; ++t) {
        for (int i = 0; i < 8; ++i) {
            const int row = t / 4 + 8 * (i / 2 % 2), column = 2 * (t % 4) + i % 2 + 8 * (i / 4);
            x[row][column] = half(threads[t].a[i / 2], i % 2);
        }
        for (int i = 0; i < 4; ++i) {
            y[2 * (t % 4) + i % 2 + 8 * (i / 2)][t / 4] = half(threads[t].b[i / 2], i % 2);
        }
    }
    for (int t = 0; t < 32; ++t) {
        for (int i = 0; i < 4; ++i) {
            const int row = t / 4 + 8 * (i / 2), column = 2 * (t % 4) + i % 2;
            float sum = threads[t].c[i];
            for (int k = 0; k < 16; ++k) sum += x[row][k] * y[k][column];
            threads[t].c[i] = sum;
        }
    }
}

// The order of two butterfly steps; addition of two numbers commutes. x: the values of four neighbouring threads.
template <int n, class Join>
void join_quad(Values<float, n>* const* x, Join join) {
    for (int i = 0; i < n; ++i) {
        const float all = join(join((*x[0])[i], (*x[1])[i]), join((*x[2])[i], (*x[3])[i]));
        for (int u = 0; u < 4; ++u) (*x[u])[i] = all;
    }
}

inline float larger(float a, float b) { return std::fmax(a, b); }
inline float sum_of(float a, float b) { return a + b; }

}  // namespace unitrans::cuda
