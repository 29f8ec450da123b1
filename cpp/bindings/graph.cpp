// unitrans._graph: what a host has to know about a batch of graphs, on NumPy arrays. The interpreter
// lock is released while it is worked out.
#include "unitrans/graph.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;
namespace graph = unitrans::graph;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
Array<T> to_numpy(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owned->data();
    py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
    owned.release();
    return Array<T>(std::move(shape), data, owner);
}

template <class T>
std::span<const T> to_span(const Array<T>& array) {
    return {array.data(), static_cast<size_t>(array.size())};
}

py::tuple pair_features(const Array<int32_t>& cu_nodes, const Array<int32_t>& cu_edges,
                        const Array<int32_t>& source, const Array<int32_t>& target,
                        const Array<int32_t>& edge_code, int64_t hops, const std::string& paths,
                        bool hops_are_edges) {
    const graph::Graphs graphs{to_span(cu_nodes), to_span(cu_edges), to_span(source),
                               to_span(target)};
    const auto codes = to_span(edge_code);
    const auto rule =
        paths == "official" ? graph::Paths::kFloydWarshall : graph::Paths::kBreadthFirst;
    graph::PairFeatures features;
    {
        py::gil_scoped_release unlocked;
        features = graph::pair_features(graphs, codes, hops, rule, hops_are_edges);
    }
    const auto pairs = static_cast<py::ssize_t>(features.distance.size());
    const auto nodes = static_cast<py::ssize_t>(features.degree.size());
    const auto width = static_cast<py::ssize_t>(hops_are_edges ? 1 : hops);
    return py::make_tuple(to_numpy(std::move(features.degree), {nodes}),
                          to_numpy(std::move(features.distance), {pairs}),
                          to_numpy(std::move(features.hops), {pairs, width}));
}

py::tuple unique_rows(const Array<int64_t>& values) {
    const int64_t rows = values.shape(0), width = values.shape(1);
    const auto all = to_span(values);
    graph::UniqueRows unique;
    {
        py::gil_scoped_release unlocked;
        unique = graph::unique_rows(all, rows, width);
    }
    const auto different = static_cast<py::ssize_t>(unique.first.size());
    return py::make_tuple(to_numpy(std::move(unique.code), {static_cast<py::ssize_t>(rows)}),
                          to_numpy(std::move(unique.first), {different}));
}

}  // namespace

PYBIND11_MODULE(_graph, module) {
    module.doc() = "Distances, paths and degrees of graphs; use them through unitrans.ops.graphs.";
    module.attr("UNREACHABLE") = static_cast<int>(graph::kUnreachable);
    module.def("pair_features", &pair_features);
    module.def("unique_rows", &unique_rows);
}
