// Scratch memory of the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace unitrans {

inline constexpr std::size_t kScratchAlignment = 64;

// Memory of the calling thread, kept from task to task: valid until its next call. Contents are
// undefined. Throws std::bad_alloc.
void* thread_scratch(std::size_t bytes);

// The same for the thread that hands out the tasks: kept while they run.
void* call_scratch(std::size_t bytes);

// Give memory beyond a few MiB back; called when a task or a call ends.
void trim_thread_scratch();
void trim_call_scratch();

}  // namespace unitrans
