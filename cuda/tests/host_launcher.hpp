// Runs kernels on the host: every item of a launch in turn, with shared memory of exactly the promised size, full of NaN.
#pragma once

#include <cstdlib>
#include <cstring>

#include "host_team.hpp"

namespace unitrans::cuda {

struct HostLauncher {
    bool backwards = false;  // the order of items, which must not matter

    void zero(void* data, int64_t bytes) { std::memset(data, 0, bytes); }

    template <class Kernel>
    void run(const typename Kernel::Arguments& arguments, int64_t items) {
        static_assert(Kernel::kSharedBytes <= 99 * 1024, "more than a block of sm_120 may have");
        const size_t bytes = (Kernel::kSharedBytes + 15) / 16 * 16 + 16;
        char* memory = static_cast<char*>(std::aligned_alloc(16, bytes));
        for (int64_t i = 0; i < items; ++i) {
            std::memset(memory, 0xff, bytes);
            HostTeam<Kernel::kWarps> team;
            Kernel::run(team, arguments, backwards ? items - 1 - i : i, memory);
            for (size_t b = Kernel::kSharedBytes; b < bytes; ++b) {
                if (memory[b] != '\xff') std::abort();  // wrote behind its shared memory
            }
        }
        std::free(memory);
    }
};

}  // namespace unitrans::cuda
