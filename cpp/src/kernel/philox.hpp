// Philox4x32-10, the counter-based random numbers behind dropout (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011): any word can be had at any time, so forward, backward and
// every backend see one mask.
#pragma once

#include "simd.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// A 32-bit word of each of several counters, in 64-bit lanes whose upper halves mean nothing.
using WordVec = BitsVec<double>;

// Counters are processed this many at a time: two vectors keep the multipliers busy.
inline constexpr int kPhiloxBatch = 2 * kLanes<double>;

// The 64-bit products of the lower halves of the lanes.
inline WordVec multiply_words(WordVec a, uint32_t factor) {
    const WordVec b = WordVec{} + factor;
#if UNITRANS_VECTOR_BYTES == 64
    return bit_cast<WordVec>(
        _mm512_maskz_mul_epu32(0xff, bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif UNITRANS_VECTOR_BYTES == 32
    return bit_cast<WordVec>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return bit_cast<WordVec>(_mm_mul_epu32(bit_cast<__m128i>(a), bit_cast<__m128i>(b)));
#else
    return (a & 0xffffffff) * b;
#endif
}

struct PhiloxState {
    WordVec x0, x1, x2, x3;

    void round(uint32_t key0, uint32_t key1) {
        const WordVec even = multiply_words(x0, 0xD2511F53), odd = multiply_words(x2, 0xCD9E8D57);
        x0 = (odd >> 32) ^ x1 ^ key0;
        x1 = odd;
        x2 = (even >> 32) ^ x3 ^ key1;
        x3 = even;
    }

    // words[4 i + w] = word w of counter i
    void store(uint32_t* words) const {
        using List = typename CountTo<kLanes<double>>::type;
        const auto low = bit_cast<Vec<double>>((x0 & 0xffffffff) | (x1 << 32));
        const auto high = bit_cast<Vec<double>>((x2 & 0xffffffff) | (x3 << 32));
        store_lanes(words, zip<double, 0>(low, high, List{}));
        store_lanes(words + 2 * kLanes<double>, zip<double, 1>(low, high, List{}));
    }
};

// words[4 i .. 4 i + 3] = the random words of counter (c0, c1[i], c2, 0), i < kPhiloxBatch.
inline void philox4x32_10(uint32_t c0, const uint32_t* c1, uint32_t c2, uint32_t key0,
                          uint32_t key1, uint32_t* words) {
    constexpr int n = kLanes<double>;
    PhiloxState state[2];
    for (int s = 0; s < 2; ++s) {
        WordVec second;
        for (int i = 0; i < n; ++i) second[i] = c1[s * n + i];
        state[s] = {WordVec{} + c0, second, WordVec{} + c2, WordVec{}};
    }
    for (int round = 0; round < 10; ++round) {
        state[0].round(key0, key1);
        state[1].round(key0, key1);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    state[0].store(words);
    state[1].store(words + 4 * n);
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
