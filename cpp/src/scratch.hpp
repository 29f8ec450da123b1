// Scratch memory of the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace unitrans {

inline constexpr std::size_t kScratchAlignment = 64;

// Memory of the calling thread, kept from task to task: valid until its next call. Contents are
// undefined. Throws std::bad_alloc.
void* thread_scratch(std::size_t bytes);

// Gives memory beyond a few MiB back; called when a task ends.
void trim_thread_scratch();

}  // namespace unitrans
