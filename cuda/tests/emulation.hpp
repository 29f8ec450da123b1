// The machine that a test runs on: loops, or under ThreadSanitizer fibers.
#pragma once

#if defined(__SANITIZE_THREAD__)
#include "fiber_team.hpp"
#else
#include "host_launcher.hpp"
#endif

namespace unitrans::cuda {

#if defined(__SANITIZE_THREAD__)
using Emulation = FiberLauncher;
#else
using Emulation = HostLauncher;
#endif

}  // namespace unitrans::cuda
