// Memory of large results.
#pragma once

#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace unitrans {

// Asks for huge pages for a fresh result. malloc takes blocks above 32 MiB from the system anew every time, and the first
// touch of each of their small pages costs about a microsecond: a third of a backward pass over many small groups.
inline void ask_for_huge_pages([[maybe_unused]] const torch::stable::Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kFresh = uintptr_t{4} << 20, kPage = uintptr_t{2} << 20;
    int64_t last_element = 0;
    for (int64_t i = 0; i < fresh.dim(); ++i) {
        if (fresh.size(i) == 0) return;
        last_element += (fresh.size(i) - 1) * fresh.stride(i);
    }
    const uintptr_t bytes = static_cast<uintptr_t>(last_element + 1) * fresh.element_size();
    if (bytes < kFresh) return;
    const auto begin = reinterpret_cast<uintptr_t>(fresh.data_ptr());
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
    // Whole pages inside the block alone. A refusal changes nothing but time.
    const uintptr_t last = (begin + bytes) / kPage * kPage;
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace unitrans
