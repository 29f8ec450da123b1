// The dropout mask: word (key row % 4) of Philox counter (query row, key row // 4, head, 0) decides
// on a probability.
#pragma once

#include "pack.hpp"
#include "philox.hpp"
#include "score.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

struct Dropout {
    uint32_t key0 = 0, key1 = 0;
    uint32_t threshold = 0;  // keep words from here on
    double factor = 1;       // of what is kept
    bool on = false;

    explicit Dropout(const Problem& problem) {
        if (problem.dropout_p <= 0) return;
        on = true;
        key0 = static_cast<uint32_t>(problem.dropout_seed);
        key1 = static_cast<uint32_t>(problem.dropout_seed >> 32);
        threshold = static_cast<uint32_t>(problem.dropout_p * 0x1p32);
        factor = 1 / (1 - problem.dropout_p);
    }
};

// Which words the keys of a group use. Keys of one counter that follow one another share it.
class KeyWords {
  public:
    KeyWords(Arena& arena, Index num_keys)
        : counter_(arena.take<uint32_t>(num_keys + kPhiloxBatch)),
          word_(arena.take<int32_t>(num_keys)),
          words_(arena.take<uint32_t>(4 * (num_keys + kPhiloxBatch))) {}

    void assign(const RowList& keys, Index num_keys) {
        int32_t last = -1;
        consecutive_ = true;
        for (Index j = 0; j < num_keys; ++j) {
            const uint32_t row = static_cast<uint32_t>(keys[j]);
            if (last < 0 || counter_[last] != row / 4) counter_[++last] = row / 4;
            word_[j] = 4 * last + static_cast<int32_t>(row % 4);
            consecutive_ = consecutive_ && word_[j] == word_[0] + j;
        }
        for (int i = 1; i <= kPhiloxBatch; ++i) counter_[last + i] = 0;  // to fill a last batch
    }

    // keep[j] = 1 / (1 - p) or 0 for the keys of the span, 0 behind them.
    template <class E>
    void keep_row(const Dropout& dropout, Index query_row, Index head, KeySpan span,
                  E* keep) const {
        if (span.count() == 0) return;
        const Index begin = word_[span.first] / 4, end = word_[span.last - 1] / 4 + 1;
        for (Index c = begin; c < end; c += kPhiloxBatch) {
            philox4x32_10(static_cast<uint32_t>(query_row), counter_ + c,
                          static_cast<uint32_t>(head), dropout.key0, dropout.key1,
                          words_ + 4 * (c - begin));
        }
        const int32_t* word = word_ + span.first;
        const E factor = static_cast<E>(dropout.factor);
        const auto kept = [&](uint32_t w) { return w >= dropout.threshold ? factor : 0; };
        if (consecutive_) {
            const uint32_t* words = words_ + (word[0] - 4 * begin);
            for (Index j = 0; j < span.count(); ++j) keep[j] = kept(words[j]);
        } else {
            for (Index j = 0; j < span.count(); ++j) keep[j] = kept(words_[word[j] - 4 * begin]);
        }
        for (Index j = span.count(); j < round_up(span.count(), kLanes<E>); ++j) keep[j] = 0;
    }

  private:
    uint32_t* counter_;  // [num_keys] key row // 4 of each counter in use
    int32_t* word_;      // [num_keys] 4 * (place in counter_) + key row % 4
    uint32_t* words_;    // the words of one query
    bool consecutive_ = false;
};

// probabilities *= keep
template <class E>
inline void apply_dropout(Index vectors, const E* keep, E* probabilities) {
    for (Index j = 0; j < vectors * kLanes<E>; j += kLanes<E>) {
        store(probabilities + j, load(probabilities + j) * load(keep + j));
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
