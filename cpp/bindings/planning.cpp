// unitrans._planning: the host planners on NumPy arrays. The lists come back without a copy, and the
// interpreter lock is released while they are made.
#include "unitrans/planning.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace py = pybind11;
namespace planning = unitrans::planning;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Sizes = std::vector<int64_t>;

template <class T>
Array<T> to_numpy(std::vector<T>&& values) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    const auto size = static_cast<py::ssize_t>(owned->size());
    T* data = owned->data();
    py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
    owned.release();
    return Array<T>(size, data, owner);
}

template <class T>
std::span<const T> to_span(const Array<T>& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

template <class T>
std::optional<std::span<const T>> to_span(const std::optional<Array<T>>& array) {
    if (!array) return std::nullopt;
    return to_span(*array);
}

const uint8_t* flags(const Array<bool>& array) {
    static_assert(sizeof(bool) == sizeof(uint8_t));
    return reinterpret_cast<const uint8_t*>(array.data());
}

template <class Planner>
py::tuple plan(const Planner& planner) {
    planning::Groups groups;
    {
        py::gil_scoped_release unlocked;
        groups = planner();
    }
    return py::make_tuple(to_numpy(std::move(groups.cu_seqlens)),
                          to_numpy(std::move(groups.token_index)),
                          to_numpy(std::move(groups.position)));
}

py::tuple visible_windows(const Array<bool>& visible, const Sizes& window, const Sizes& shift) {
    const Sizes grid(visible.shape() + 1, visible.shape() + visible.ndim());
    return plan([&] {
        return planning::visible_windows(flags(visible), visible.shape(0), grid, window, shift);
    });
}

struct SideArrays {
    const Array<int32_t>& cu_seqlens;
    const std::optional<Array<int32_t>>&token_index, &position;
};

planning::Lists lists(const char* prefix, int64_t num_rows, const SideArrays& side) {
    return {prefix, num_rows, to_span(side.cu_seqlens), to_span(side.token_index),
            to_span(side.position)};
}

// Checks one hand-made plan; returns the number of bias entries it addresses. Without key_cu_seqlens
// the keys are the queries.
int64_t check(int64_t num_tokens, const Array<int32_t>& cu_seqlens,
              const std::optional<Array<int32_t>>& token_index,
              const std::optional<Array<int32_t>>& position, int64_t num_keys,
              const std::optional<Array<int32_t>>& key_cu_seqlens,
              const std::optional<Array<int32_t>>& key_token_index,
              const std::optional<Array<int32_t>>& key_position,
              const std::optional<Array<int64_t>>& bias_offset,
              const std::optional<Array<int32_t>>& bias_row_stride,
              std::optional<int64_t> bias_size) {
    const planning::Lists queries = lists("", num_tokens, {cu_seqlens, token_index, position});
    const bool is_cross = key_cu_seqlens.has_value();
    const planning::Lists keys =
        is_cross ? lists("key_", num_keys, {*key_cu_seqlens, key_token_index, key_position})
                 : queries;
    const auto offset = to_span(bias_offset);
    const auto row_stride = to_span(bias_row_stride);
    py::gil_scoped_release unlocked;
    planning::check_lists(queries, /*unique=*/true);
    if (is_cross) planning::check_lists(keys, /*unique=*/false);
    return offset ? planning::check_bias(queries, keys, *offset, *row_stride, bias_size) : 0;
}

}  // namespace

PYBIND11_MODULE(_planning, module) {
    module.doc() = "Host planners on NumPy arrays; use them through unitrans.Plan.";

    module.def("windows", [](const Sizes& grid, const Sizes& window, const Sizes& shift) {
        return plan([&] { return planning::windows(grid, window, shift); });
    });
    module.def("visible_windows", &visible_windows);
    module.def("segments", [](const Array<int64_t>& ids) {
        return plan([&] { return planning::segments(ids.data(), ids.shape(0), ids.shape(1)); });
    });
    module.def("unpadded", [](const Array<bool>& padding) {
        return plan(
            [&] { return planning::unpadded(flags(padding), padding.shape(0), padding.shape(1)); });
    });
    module.def("cumulative", [](const Array<int64_t>& lengths) {
        return to_numpy(planning::cumulative(to_span(lengths)));
    });
    module.def("check", &check);
}
