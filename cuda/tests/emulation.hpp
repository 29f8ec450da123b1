// The machine that a test runs on: loops, or fibers (UNITRANS_FIBERS, which wants ThreadSanitizer).
#pragma once

#if defined(UNITRANS_FIBERS)
#include "fiber_team.hpp"
#else
#include "host_launcher.hpp"
#endif

namespace unitrans::cuda {

#if defined(UNITRANS_FIBERS)
using Emulation = FiberLauncher;
#else
using Emulation = HostLauncher;
#endif

}  // namespace unitrans::cuda
