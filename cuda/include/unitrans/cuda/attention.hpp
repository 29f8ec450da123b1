// The op of unitrans/attention.hpp on NVIDIA GPUs: same problem, same results, pointers into device memory. No Torch.
//
// fp32, bf16, fp16 and head_dim up to 128; scale and bias are fp32. Calls queue kernels on a stream and wait for nothing.
// Results are bit-equal from run to run. dropout_p and dropout_seed: Problem::dropout_p, and the seed in device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unitrans/attention.hpp"
#include "unitrans/pair_bias.hpp"

namespace unitrans::cuda {

// What the host knows of the lists, whose values only the device can read.
struct Sizes {
    int64_t max_group_size = 0, max_key_group_size = 0;
    int64_t listed_queries = 0, listed_keys = 0;  // M of each side
};

inline constexpr int64_t kMaxHeadDim = 128;

// Empty, or in words what this problem has that the kernels do not serve.
const char* why_not(const Problem& problem);

// Null, or in words why no kernel can run on this machine: its driver is older than the CUDA these were compiled with. Makes
// no context.
const char* why_not_here();

// Throws std::runtime_error when a launch fails. With UNITRANS_CUDA_DEBUG set in the environment each launch is waited for,
// so that a failure names its kernel.
void attention_forward(const Problem& problem, const Sizes& sizes, const int64_t* dropout_seed,
                       const ForwardOutputs& outputs, void* stream);

size_t backward_workspace(const Problem& problem, const Sizes& sizes, const Gradients& gradients);
// `workspace`: that many bytes of device memory, aligned to 256.
void attention_backward(const Problem& problem, const Sizes& sizes, const int64_t* dropout_seed,
                        const BackwardInputs& inputs, const Gradients& gradients, void* workspace,
                        void* stream);

size_t pair_bias_workspace(const PairBias& problem, bool backward);
void pair_bias_forward(const PairBias& problem, void* planes, void* workspace, void* stream);
void pair_bias_backward(const PairBias& problem, const void* grad_planes, void* grad_spatial,
                        void* grad_hop, void* grad_token, void* workspace, void* stream);

}  // namespace unitrans::cuda
