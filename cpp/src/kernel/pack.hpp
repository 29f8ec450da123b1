// Gathering the rows of a group into scratch memory and writing rows back.
#pragma once

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "../scratch.hpp"
#include "convert.hpp"

namespace unitrans::UNITRANS_ISA_NAMESPACE {

// Hands out pieces of a block of memory; without a block it only counts the bytes. AddressSanitizer
// watches the borders between the pieces.
class Arena {
  public:
    Arena() = default;
    explicit Arena(void* memory) : base_(reinterpret_cast<uintptr_t>(memory)) {}

    template <class E>
    E* take(Index count) {
        E* piece = reinterpret_cast<E*>(base_ + used_);
        const Index bytes = count * static_cast<Index>(sizeof(E));
        used_ += static_cast<std::size_t>(round_up(bytes, kScratchAlignment));
#ifdef __SANITIZE_ADDRESS__
        if (base_ != 0)
            ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(base_ + used_), kScratchAlignment);
        used_ += kScratchAlignment;
#endif
        return piece;
    }
    std::size_t used() const { return used_; }

  private:
    uintptr_t base_ = 0;
    std::size_t used_ = 0;
};

// The stream rows of the entries of a group.
struct RowList {
    const int32_t* index;  // null: first, first + 1, ...
    Index first;
    Index operator[](Index i) const { return index ? index[i] : first + i; }
};

// The rows of one head of a strided array.
template <class T>
struct HeadRows {
    T* data;
    Index stride;
    T* operator[](Index row) const { return data + row * stride; }
};

// head_dim, and head_dim rounded up to whole vectors: the length of rows in scratch.
template <class E>
struct Width {
    Index dim, padded;
    explicit Width(Index head_dim) : dim(head_dim), padded(round_up(head_dim, kLanes<E>)) {}
    Index vectors() const { return padded / kLanes<E>; }
};

// target = the values of a row, with zeros up to the padded width.
template <class E, class T>
[[gnu::always_inline]] inline void load_row(const T* row, Width<E> width, E* target) {
    for_vectors<E>(width.dim,
                   [&](Index c, Index lanes) { store(target + c, load_as<E>(row + c, lanes)); });
}

// rows[i] = source[list[begin + i]]
template <class E, class T>
inline void gather_rows(HeadRows<const T> source, RowList list, Index begin, Index count,
                        Width<E> width, E* rows) {
    for (Index i = 0; i < count; ++i) {
        load_row(source[list[begin + i]], width, rows + i * width.padded);
    }
}

// Asks for the rows of entries [begin, end) ahead of time; they lie too irregularly for the
// processor to guess. Always inlined: GCC drops calls of functions that do nothing but this.
template <bool to_write, class T>
[[gnu::always_inline]] inline void prefetch_rows(HeadRows<T> rows, RowList list, Index begin,
                                                 Index end, Index dim) {
    constexpr Index kLineBytes = 64;
    const Index bytes = dim * static_cast<Index>(sizeof(T));
    const Index step = rows.stride * static_cast<Index>(sizeof(T));
    const bool whole_lines = ((reinterpret_cast<uintptr_t>(rows.data) | step | bytes) % 64) == 0;
    for (Index i = begin; i < end; ++i) {
        const char* row = reinterpret_cast<const char*>(rows[list[i]]);
        for (Index b = 0; b < bytes; b += kLineBytes) __builtin_prefetch(row + b, to_write, 3);
        if (!whole_lines) __builtin_prefetch(row + bytes - 1, to_write, 3);
    }
}

template <class E>
inline void clear(E* values, Index count) {
    __builtin_memset(values, 0, static_cast<std::size_t>(count) * sizeof(E));
}

template <class E>
inline E dot(const E* a, const E* b, Index length) {  // whole vectors
    Vec<E> sum{};
    for (Index c = 0; c < length; c += kLanes<E>) sum += load(a + c) * load(b + c);
    return reduce_add<E>(sum);
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

inline constexpr double kNormEps = 1e-12;

// What a row was divided by, from what its gradient is multiplied with.
template <class E>
inline E norm_factor(E inverse_norm) {
    return inverse_norm == 0 ? static_cast<E>(1 / kNormEps) : inverse_norm;
}

// Divides every row by its l2 norm, or by 1e-12 if that is larger. inverse_norm[i] is what its
// gradient will be multiplied with: 1 / norm, and 0 for a norm below 1e-12.
template <class E>
inline void normalize_rows(E* rows, Index count, Width<E> width, E* inverse_norm) {
    constexpr E kEps = static_cast<E>(kNormEps);
    for (Index i = 0; i < count; ++i) {
        E* row = rows + i * width.padded;
        const E norm = square_root(dot(row, row, width.padded));
        const E factor = 1 / (norm < kEps ? kEps : norm);
        for (Index c = 0; c < width.padded; c += kLanes<E>) store(row + c, load(row + c) * factor);
        inverse_norm[i] = norm < kEps ? 0 : factor;
    }
}

// Turns the gradient of a normalised row x into that of the row itself.
template <class E>
inline void normalize_gradient(E* gradient, const E* x, E inverse_norm, Width<E> width) {
    const E along = dot(gradient, x, width.padded);
    for (Index c = 0; c < width.padded; c += kLanes<E>) {
        store(gradient + c, (load(gradient + c) - load(x + c) * along) * inverse_norm);
    }
}

// Transposes kLanes rows into a panel, times a factor: panel[c * stride + lane] = factor * row lane
// [c]. `load_at(lane, c, lanes)` gives the values c .. of a row.
template <class E, class Load>
[[gnu::always_inline]] inline void pack_panel(Index length, E factor, E* panel, Index stride,
                                              Load load_at) {
    constexpr Index n = kLanes<E>;
    Index c = 0;
    for (; c + n <= length; c += n) {
        Vec<E> square[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) square[i] = load_at(i, c, n);
        transpose<E>(square);
        E* target = panel + c * stride;
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(target + i * stride, square[i] * factor);
    }
    if (c == length) return;
    const Index count = length - c;
    Vec<E> square[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) square[i] = load_at(i, c, count);
    transpose<E>(square);
    for (Index i = 0; i < count; ++i) store(panel + (c + i) * stride, square[i] * factor);
}

// The entries of a list in panels, with zeros behind the last: panels[p][c][lane] = factor * entry
// p * kLanes + lane [c].
template <class E, class T>
inline void gather_panels(HeadRows<const T> source, RowList list, Index count, Width<E> width,
                          E factor, E* panels) {
    constexpr Index n = kLanes<E>;
    for (Index first = 0; first < count; first += n) {
        E* panel = panels + first * width.dim;
        if (first + n <= count) {
            const T* rows[n];
            for (int i = 0; i < n; ++i) rows[i] = source[list[first + i]];
            pack_panel<E>(width.dim, factor, panel, n, [&](Index i, Index c, Index lanes) {
                return load_as<E>(rows[i] + c, lanes);
            });
        } else {
            pack_panel<E>(width.dim, factor, panel, n, [&](Index i, Index c, Index lanes) {
                return first + i < count ? load_as<E>(source[list[first + i]] + c, lanes)
                                         : Vec<E>{};
            });
        }
    }
}

// target = factor * row
template <class E, class T>
inline void store_row(T* target, const E* row, Width<E> width, E factor) {
    for_vectors<E>(width.dim, [&](Index c, Index lanes) {
        store_as<E>(target + c, load(row + c) * factor, lanes);
    });
}

}  // namespace unitrans::UNITRANS_ISA_NAMESPACE
