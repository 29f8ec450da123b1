// The entry points: which instance serves a problem.
#include "launch.hpp"
#include "stream_launcher.cuh"
#include "unitrans/cuda/attention.hpp"

namespace unitrans::cuda {

#define UNITRANS_INSTANCE(T, D)                                                         \
    extern template void forward<T, D, StreamLauncher>(StreamLauncher&, const Request&, \
                                                       const ForwardOutputs&);          \
    extern template void backward<T, D, StreamLauncher>(                                \
        StreamLauncher&, const Request&, const BackwardInputs&, const Gradients&, void*);
#define UNITRANS_INSTANCES(T) \
    UNITRANS_INSTANCE(T, 32) UNITRANS_INSTANCE(T, 64) UNITRANS_INSTANCE(T, 128)
UNITRANS_INSTANCES(float)
UNITRANS_INSTANCES(BFloat16)
UNITRANS_INSTANCES(Float16)

namespace {

template <class F>
void with_instance(const Problem& p, F&& f) {
    if (const char* reason = why_not(p))
        throw std::runtime_error(std::string("unitrans: ") + reason);
    const auto with_dim = [&]<class T>() {
        if (p.head_dim <= 32) {
            f.template operator()<T, 32>();
        } else if (p.head_dim <= 64) {
            f.template operator()<T, 64>();
        } else {
            f.template operator()<T, 128>();
        }
    };
    if (p.dtype == DType::kFloat32) {
        with_dim.template operator()<float>();
    } else if (p.dtype == DType::kBFloat16) {
        with_dim.template operator()<BFloat16>();
    } else {
        with_dim.template operator()<Float16>();
    }
}

}  // namespace

const char* why_not(const Problem& p) {
    if (p.dtype == DType::kFloat64) return "the CUDA kernels compute fp32, bf16 and fp16, not fp64";
    if (p.head_dim > kMaxHeadDim) return "the CUDA kernels serve head_dim up to 128";
    return nullptr;
}

const char* why_not_here() {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver / 1000 >= CUDART_VERSION / 1000)
        return nullptr;
    const auto version = [](int v) {
        return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
    };
    static const std::string reason =
        "the kernels were compiled with CUDA " + version(CUDART_VERSION) + ", the driver serves " +
        (driver == 0 ? "none" : version(driver)) +
        ": install a newer driver, or unitrans with an nvcc of its CUDA";
    return reason.c_str();
}

void attention_forward(const Problem& problem, const Sizes& sizes, const int64_t* dropout_seed,
                       const ForwardOutputs& outputs, void* stream) {
    StreamLauncher launcher{static_cast<cudaStream_t>(stream)};
    with_instance(problem, [&]<class T, int kDim>() {
        forward<T, kDim>(launcher, {problem, sizes, dropout_seed}, outputs);
    });
}

size_t backward_workspace(const Problem& problem, const Sizes& sizes, const Gradients& g) {
    return BackwardWorkspace(problem, sizes, g.dbias != nullptr, g.dscale != nullptr, nullptr)
        .bytes;
}

void attention_backward(const Problem& problem, const Sizes& sizes, const int64_t* dropout_seed,
                        const BackwardInputs& inputs, const Gradients& gradients, void* workspace,
                        void* stream) {
    StreamLauncher launcher{static_cast<cudaStream_t>(stream)};
    with_instance(problem, [&]<class T, int kDim>() {
        backward<T, kDim>(launcher, {problem, sizes, dropout_seed}, inputs, gradients, workspace);
    });
}

}  // namespace unitrans::cuda
