// Philox4x32-10, the counter-based random numbers behind dropout (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011): any word can be had at any time, so forward, backward and
// every backend see one mask.
#pragma once

#include "simd.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// Counters are processed this many at a time, in plain loops that compilers turn into vectors.
inline constexpr int kPhiloxBatch = 16;

struct PhiloxBatch {
    uint32_t x[4][kPhiloxBatch];  // x[w][i] = word w of counter i, replaced by the random words
};

inline void philox_round(PhiloxBatch& b, uint32_t key0, uint32_t key1) {
    for (int i = 0; i < kPhiloxBatch; ++i) {
        const uint64_t even = uint64_t{0xD2511F53} * b.x[0][i];
        const uint64_t odd = uint64_t{0xCD9E8D57} * b.x[2][i];
        b.x[0][i] = static_cast<uint32_t>(odd >> 32) ^ b.x[1][i] ^ key0;
        b.x[1][i] = static_cast<uint32_t>(odd);
        b.x[2][i] = static_cast<uint32_t>(even >> 32) ^ b.x[3][i] ^ key1;
        b.x[3][i] = static_cast<uint32_t>(even);
    }
}

inline void philox4x32_10(PhiloxBatch& b, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        philox_round(b, key0, key1);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
