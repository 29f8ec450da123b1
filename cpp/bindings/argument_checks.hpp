// What an operator says of a tensor that it cannot take: name, what was expected, what came.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace unitrans::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = std::initializer_list<int64_t>;

// Torch makes a RuntimeError of it.
template <class... Parts>
[[noreturn, gnu::cold]] void refuse(const Parts&... parts) {
    std::ostringstream text;
    ((text << "unitrans: ") << ... << parts);
    throw std::runtime_error(text.str());
}

template <class Sizes>
std::string join(const Sizes& sizes) {
    std::string text = "[";
    for (const int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

// Checks the arguments of one call, which all live on the device of its first.
class Arguments {
  public:
    explicit Arguments(const Tensor& first)
        : is_cpu_(first.is_cpu()), index_(is_cpu_ ? 0 : first.get_device_index()) {}

    void check(const char* name, const Tensor& x, ScalarType dtype, Shape shape) const {
        const auto sizes = x.sizes();
        if (x.scalar_type() != dtype ||
            !std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end())) {
            refuse(name, ": expected ", torch::headeronly::toString(dtype), " ", join(shape),
                   ", got ", torch::headeronly::toString(x.scalar_type()), " ", join(sizes));
        }
        check_device(name, x);
    }

    // A list of a plan: contiguous, so that its pointer is enough.
    void check_list(const char* name, const Tensor& x, ScalarType dtype, Shape shape) const {
        check(name, x, dtype, shape);
        if (!x.is_contiguous()) refuse(name, ": expected a contiguous tensor");
    }

    // Where the gradient of an input is written: contiguous, so that no two of its rows share memory.
    void check_output(const char* name, const Tensor& x, const Tensor& input) const {
        const auto own = x.sizes(), sizes = input.sizes();
        if (x.scalar_type() != input.scalar_type() || !x.is_contiguous() ||
            !std::equal(own.begin(), own.end(), sizes.begin(), sizes.end())) {
            refuse(name, ": expected a contiguous tensor with the dtype and shape of its input, ",
                   join(sizes), ", got ", join(own));
        }
        check_device(name, x);
    }

    void check_device(const char* name, const Tensor& x) const {
        const bool fits = is_cpu_ ? x.is_cpu() : x.is_cuda() && x.get_device_index() == index_;
        if (!fits) refuse(name, ": expected on the same device as the other tensors");
    }

  private:
    bool is_cpu_;
    int32_t index_;
};

}  // namespace unitrans::bindings
