// Irregular columns of bias planes: the keys of a window of which only some tokens are there.
#pragma once

#include "pack.hpp"

#if defined(__AVX512F__) && UNITRANS_VECTOR_BYTES == 64
#define UNITRANS_MASKS
#endif

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// Ascending columns of a plane. Where the processor can, a row is squeezed and spread a vector at a
// time by bit masks: reading column by column costs half of a small window.
template <class E>
class Columns {
  public:
    // For columns below `num_columns`.
    Columns(Arena& arena, Index num_columns) {
        if (kMasks) masks_ = arena.take<uint32_t>(num_columns / kLanes<E> + 1);
    }

    void assign(const int32_t* columns, Index count) {
        columns_ = columns;
        count_ = count;
        if (!kMasks || count == 0) return;
        end_ = columns[count - 1] + 1;
        clear(masks_, end_ / kLanes<E> + 1);
        for (Index j = 0; j < count; ++j) {
            masks_[columns[j] / kLanes<E>] |= 1u << columns[j] % kLanes<E>;
        }
    }

    // row[j] = source[column j]; whole vectors are written, up to one behind the last.
    void pick(const E* source, E* row) const {
#ifdef UNITRANS_MASKS
        for (Index c = 0; c < end_; c += kLanes<E>) {
            const uint32_t mask = masks_[c / kLanes<E>];
            store(row, squeeze(mask, load_as<E>(source + c, minimum<Index>(kLanes<E>, end_ - c))));
            row += __builtin_popcount(mask);
        }
#else
        for (Index j = 0; j < count_; ++j) row[j] = source[columns_[j]];
#endif
    }

    // target[column j] += row[j]
    void add(const E* row, E* target) const {
#ifdef UNITRANS_MASKS
        for (Index c = 0; c < end_; c += kLanes<E>) {
            const uint32_t mask = masks_[c / kLanes<E>];
            const Index lanes = minimum<Index>(kLanes<E>, end_ - c);
            const int count = __builtin_popcount(mask);
            if (count == 0) continue;
            const Vec<E> spread = expand(mask, load_as<E>(row, count));
            store_as<E>(target + c, load_as<E>(target + c, lanes) + spread, lanes);
            row += count;
        }
#else
        for (Index j = 0; j < count_; ++j) target[columns_[j]] += row[j];
#endif
    }

  private:
#ifdef UNITRANS_MASKS
    static constexpr bool kMasks = true;
    static Vec<float> squeeze(uint32_t mask, Vec<float> v) {
        return bit_cast<Vec<float>>(
            _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), bit_cast<__m512>(v)));
    }
    static Vec<double> squeeze(uint32_t mask, Vec<double> v) {
        return bit_cast<Vec<double>>(
            _mm512_maskz_compress_pd(static_cast<__mmask8>(mask), bit_cast<__m512d>(v)));
    }
    static Vec<float> expand(uint32_t mask, Vec<float> v) {
        return bit_cast<Vec<float>>(
            _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), bit_cast<__m512>(v)));
    }
    static Vec<double> expand(uint32_t mask, Vec<double> v) {
        return bit_cast<Vec<double>>(
            _mm512_maskz_expand_pd(static_cast<__mmask8>(mask), bit_cast<__m512d>(v)));
    }
#else
    static constexpr bool kMasks = false;
#endif

    uint32_t* masks_ = nullptr;  // of every vector of a row of the plane
    const int32_t* columns_ = nullptr;
    Index count_ = 0, end_ = 0;
};

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
