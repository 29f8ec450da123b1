// Queues kernels on a CUDA stream. Compiled by nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <typeinfo>

#include "device_team.cuh"

namespace unitrans::cuda {

// Every team takes one item; teams of one warp share a block, and each has its own shared memory.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kWarps == 1 ? 128 : 32 * Kernel::kWarps)
    team_kernel(const __grid_constant__ typename Kernel::Arguments arguments, int64_t items,
                int bytes) {
    extern __shared__ __align__(16) char memory[];
    constexpr int kThreads = 32 * Kernel::kWarps;
    const int team = threadIdx.x / kThreads, teams = blockDim.x / kThreads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * teams + team;
    if (item >= items) return;  // whole warps; a team of several is alone in its block
    DeviceTeam<Kernel::kWarps> self{static_cast<int>(threadIdx.x % kThreads)};
    Kernel::run(self, arguments, item, memory + team * bytes);
}

struct StreamLauncher {
    cudaStream_t stream;

    static void check(cudaError_t error, const char* what) {
        if (error == cudaSuccess) return;
        const char* hint =
            error == cudaErrorNoKernelImageForDevice
                ? "; compiled for other GPUs: use backend='torch', or install unitrans with "
                  "CMAKE_CUDA_ARCHITECTURES for this one"
                : "";
        throw std::runtime_error(std::string("unitrans: ") + what + ": " +
                                 cudaGetErrorString(error) + hint);
    }

    // Read at every launch, so that a test can set it.
    static bool debug() {
        const char* set = std::getenv("UNITRANS_CUDA_DEBUG");
        return set && *set && *set != '0';
    }

    void zero(void* data, int64_t bytes) const {
        check(cudaMemsetAsync(data, 0, bytes, stream), "memset");
    }

    template <class Kernel>
    void run(const typename Kernel::Arguments& arguments, int64_t items) const {
        if (items == 0) return;
        constexpr int bytes = (Kernel::kSharedBytes + 15) / 16 * 16, kFree = 48 * 1024;
        // As many single warps as fit what needs no permission, up to four: how many are best is left for a GPU to decide.
        constexpr int fitting = bytes == 0 ? 4 : kFree / bytes;
        constexpr int teams = Kernel::kWarps > 1 ? 1 : fitting < 1 ? 1 : fitting > 4 ? 4 : fitting;
        constexpr int kLeast =
            99 * 1024;  // what a block may ask for on sm_120, and no less on sm_80, 90 and 100
        static_assert(teams * bytes <= kLeast,
                      "a kernel must fit the shared memory of every architecture");
        const auto kernel = team_kernel<Kernel>;
        if constexpr (teams * bytes > kFree) {
            check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       teams * bytes),
                  typeid(Kernel).name());
        }
        const int64_t blocks = (items + teams - 1) / teams;
        if (blocks > 0x7fffffff)
            throw std::runtime_error("unitrans: too many groups for one launch");
        kernel<<<static_cast<unsigned>(blocks), teams * 32 * Kernel::kWarps, teams * bytes,
                 stream>>>(arguments, items, bytes);
        check(cudaGetLastError(), typeid(Kernel).name());
        if (debug()) check(cudaStreamSynchronize(stream), typeid(Kernel).name());
    }
};

}  // namespace unitrans::cuda
