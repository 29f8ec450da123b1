#include "pair_bias.hpp"
#include "stream_launcher.cuh"
#include "unitrans/cuda/attention.hpp"

namespace unitrans::cuda {

size_t pair_bias_workspace(const PairBias& problem, bool backward) {
    return PairBiasWorkspace(problem, backward, nullptr).bytes;
}

void pair_bias_forward(const PairBias& problem, void* planes, void* workspace, void* stream) {
    StreamLauncher launcher{static_cast<cudaStream_t>(stream)};
    if (problem.dtype == DType::kFloat64) {
        pair_bias_planes(launcher, problem, static_cast<double*>(planes), workspace);
    } else {
        pair_bias_planes(launcher, problem, static_cast<float*>(planes), workspace);
    }
}

void pair_bias_backward(const PairBias& problem, const void* grad_planes, void* grad_spatial,
                        void* grad_hop, void* grad_token, void* workspace, void* stream) {
    StreamLauncher launcher{static_cast<cudaStream_t>(stream)};
    const auto run = [&]<class T>(const T* grad) {
        pair_bias_tables(launcher, problem, grad, static_cast<T*>(grad_spatial),
                         static_cast<T*>(grad_hop), static_cast<T*>(grad_token), workspace);
    };
    if (problem.dtype == DType::kFloat64) {
        run(static_cast<const double*>(grad_planes));
    } else {
        run(static_cast<const float*>(grad_planes));
    }
}

}  // namespace unitrans::cuda
