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
struct KeyWords {
    uint32_t* counter;  // [num_keys] key row // 4 of each counter in use
    int32_t* word;      // [num_keys] 4 * (place in `counter`) + key row % 4, ascending by counter
    uint32_t* words;    // the words of one query

    KeyWords(Arena& arena, Index num_keys)
        : counter(arena.take<uint32_t>(num_keys)),
          word(arena.take<int32_t>(num_keys)),
          words(arena.take<uint32_t>(4 * round_up(num_keys, kPhiloxBatch))) {}

    void assign(const RowList& keys, Index num_keys) const {
        int32_t last = -1;
        for (Index j = 0; j < num_keys; ++j) {
            const uint32_t row = static_cast<uint32_t>(keys[j]);
            if (last < 0 || counter[last] != row / 4) counter[++last] = row / 4;
            word[j] = 4 * last + static_cast<int32_t>(row % 4);
        }
    }
};

// keep[j] = 1 / (1 - p) or 0 for the keys of the span, 0 behind them.
template <class E>
inline void dropout_row(const Dropout& dropout, const KeyWords& key_words, Index query_row,
                        Index head, KeySpan span, E* keep) {
    if (span.count() == 0) return;
    const Index first = key_words.word[span.first] / 4;
    const Index last = key_words.word[span.last - 1] / 4 + 1;
    for (Index c = first; c < last; c += kPhiloxBatch) {
        PhiloxBatch batch;
        for (int i = 0; i < kPhiloxBatch; ++i) {
            batch.x[0][i] = static_cast<uint32_t>(query_row);
            batch.x[1][i] = key_words.counter[minimum<Index>(c + i, last - 1)];
            batch.x[2][i] = static_cast<uint32_t>(head);
            batch.x[3][i] = 0;
        }
        philox4x32_10(batch, dropout.key0, dropout.key1);
        uint32_t* words = key_words.words + 4 * (c - first);
        for (int i = 0; i < kPhiloxBatch; ++i) {
            for (int w = 0; w < 4; ++w) words[4 * i + w] = batch.x[w][i];
        }
    }
    const int32_t* word = key_words.word + span.first;
    const uint32_t* words = key_words.words;
    const E factor = static_cast<E>(dropout.factor);
    for (Index j = 0; j < span.count(); ++j) {
        keep[j] = words[word[j] - 4 * first] >= dropout.threshold ? factor : 0;
    }
    for (Index j = span.count(); j < round_up(span.count(), kLanes<E>); ++j) keep[j] = 0;
}

// probabilities *= keep
template <class E>
inline void apply_dropout(Index vectors, const E* keep, E* probabilities) {
    for (Index j = 0; j < vectors * kLanes<E>; j += kLanes<E>) {
        store(probabilities + j, load(probabilities + j) * load(keep + j));
    }
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
