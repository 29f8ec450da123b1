// Distances and paths of graphs, and the bias planes made of them, against definitions written out, without Torch and
// Python.
#include "unitrans/graph.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "unitrans/pair_bias.hpp"

using namespace unitrans;

namespace {

struct Batch {
    std::vector<int32_t> cu_nodes{0}, cu_edges{0}, source, target, code;

    graph::Graphs view() const { return {cu_nodes, cu_edges, source, target}; }

    void add(int32_t nodes, int32_t edges, std::mt19937& random) {
        for (int32_t e = 0; e < (nodes ? edges : 0); ++e) {
            source.push_back(static_cast<int32_t>(random() % nodes));
            target.push_back(static_cast<int32_t>(random() % nodes));
            code.push_back(1 + static_cast<int32_t>(random() % 4));
        }
        cu_nodes.push_back(cu_nodes.back() + nodes);
        cu_edges.push_back(static_cast<int32_t>(source.size()));
    }
};

Batch random_batch(uint32_t seed) {
    std::mt19937 random(seed);
    Batch batch;
    for (int32_t nodes : {5, 0, 1, 12, 3, 20}) batch.add(nodes, 2 * nodes, random);
    return batch;
}

// Bellman-Ford on one graph: [n, n], kUnreachable without a path.
std::vector<int16_t> distances(const Batch& batch, size_t g) {
    const int32_t n = batch.cu_nodes[g + 1] - batch.cu_nodes[g];
    std::vector<int16_t> d(n * n, graph::kUnreachable);
    for (int32_t i = 0; i < n; ++i) d[i * n + i] = 0;
    for (int32_t round = 0; round < n; ++round) {
        for (int32_t e = batch.cu_edges[g]; e < batch.cu_edges[g + 1]; ++e) {
            for (int32_t i = 0; i < n; ++i) {
                const int16_t by = static_cast<int16_t>(d[i * n + batch.source[e]] + 1);
                int16_t& known = d[i * n + batch.target[e]];
                if (by < known) known = by;
            }
        }
    }
    return d;
}

// Whether a walk from i to j over edges with these codes exists; the last of parallel edges counts.
bool walk_exists(const Batch& batch, size_t g, int32_t i, int32_t j, const int32_t* codes,
                 int64_t length) {
    const int32_t n = batch.cu_nodes[g + 1] - batch.cu_nodes[g];
    std::map<std::pair<int32_t, int32_t>, int32_t> edge;
    for (int32_t e = batch.cu_edges[g]; e < batch.cu_edges[g + 1]; ++e) {
        edge[{batch.source[e], batch.target[e]}] = batch.code[e];
    }
    std::vector<bool> at(n, false);
    at[i] = true;
    for (int64_t step = 0; step < length; ++step) {
        std::vector<bool> next(n, false);
        for (const auto& [ends, code] : edge) {
            if (at[ends.first] && code == codes[step]) next[ends.second] = true;
        }
        at = next;
    }
    return at[j];
}

void check_features(uint32_t seed) {
    const Batch batch = random_batch(seed);
    const int64_t hops = 4;
    for (const auto rule : {graph::Paths::kBreadthFirst, graph::Paths::kFloydWarshall}) {
        const auto found = graph::pair_features(batch.view(), batch.code, hops, rule, false);
        int64_t pair = 0;
        for (size_t g = 0; g + 1 < batch.cu_nodes.size(); ++g) {
            const int32_t n = batch.cu_nodes[g + 1] - batch.cu_nodes[g];
            const auto want = distances(batch, g);
            for (int32_t i = 0; i < n; ++i) {
                for (int32_t j = 0; j < n; ++j, ++pair) {
                    const std::string where = "graph " + std::to_string(g) + " pair " +
                                              std::to_string(i) + "," + std::to_string(j);
                    const int64_t d = want[i * n + j];
                    check::that(found.distance[pair] == d, where + ": distance");
                    const int64_t length = d == graph::kUnreachable ? 0 : std::min(d, hops);
                    const int32_t* codes = found.hops.data() + pair * hops;
                    for (int64_t k = 0; k < hops; ++k) {
                        check::that((codes[k] > 0) == (k < length), where + ": length of the path");
                    }
                    if (length == d) {
                        check::that(walk_exists(batch, g, i, j, codes, length), where + ": path");
                    }
                }
            }
        }
    }
}

void check_refusals() {
    const auto refused = [](Batch batch, const char* what) {
        try {
            graph::pair_features(batch.view(), batch.code, 3, graph::Paths::kFloydWarshall, false);
        } catch (const std::invalid_argument&) {
            return;
        }
        check::that(false, std::string("accepted: ") + what);
    };
    Batch batch = random_batch(0);
    batch.target[0] = 5;
    refused(batch, "a node outside its graph");
    batch = random_batch(0);
    batch.code[3] = 0;
    refused(batch, "code 0");
    batch = random_batch(0);
    batch.cu_edges.back() += 1;
    refused(batch, "more edges than there are");
    batch = random_batch(0);
    batch.cu_nodes[2] = 0;
    refused(batch, "falling offsets");
}

void check_unique() {
    const std::vector<int64_t> rows{1, 2, 3, 4, 1, 2, 1, 3, 3, 4};
    const auto unique = graph::unique_rows(rows, 5, 2);
    check::that(unique.code == std::vector<int32_t>{1, 2, 1, 3, 2}, "codes of rows");
    check::that(unique.first == std::vector<int64_t>{0, 1, 3}, "first rows");
    check::that(graph::unique_rows({}, 0, 2).code.empty(), "no rows");
}

void serial(int64_t tasks, const std::function<void(int64_t)>& body) {
    for (int64_t t = 0; t < tasks; ++t) body(t);
}

void threads(int64_t tasks, const std::function<void(int64_t)>& body) {
    std::vector<std::thread> pool;
    for (int64_t t = tasks; t-- > 0;) pool.emplace_back([&body, t] { body(t); });
    for (std::thread& thread : pool) thread.join();
}

template <class T>
void check_bias(DType dtype, uint32_t seed) {
    const Batch batch = random_batch(seed);
    const int64_t hops = 3, heads = 5, spatial_rows = 512, codes = 5, divisor = 2, far = 4;
    const auto features =
        graph::pair_features(batch.view(), batch.code, hops, graph::Paths::kFloydWarshall, false);
    std::mt19937 random(seed);
    std::normal_distribution<T> normal;
    const auto fill = [&](size_t size) {
        std::vector<T> values(size);
        for (T& value : values) value = normal(random);
        return values;
    };
    const auto spatial = fill(spatial_rows * heads), hop = fill(hops * codes * heads),
               token = fill(heads);
    PairBias problem;
    problem.dtype = dtype;
    problem.num_graphs = static_cast<int64_t>(batch.cu_nodes.size()) - 1;
    problem.num_heads = heads;
    problem.num_spatial = spatial_rows;
    problem.num_hops = hops;
    problem.num_codes = codes;
    problem.max_divisor = divisor;
    problem.max_distance = far;
    problem.cu_nodes = batch.cu_nodes.data();
    problem.distance = features.distance.data();
    problem.hops = features.hops.data();
    problem.spatial = spatial.data();
    problem.hop = hop.data();
    problem.token = token.data();
    for (int64_t g = 0; g < problem.num_graphs; ++g) {
        const int64_t side = batch.cu_nodes[g + 1] - batch.cu_nodes[g] + 1;
        problem.plane_size += side * side;
    }
    std::vector<T> planes(heads * problem.plane_size), again(planes.size());
    pair_bias_forward(problem, planes.data(), serial);
    pair_bias_forward(problem, again.data(), threads);
    check::that(planes == again, "equal planes for any threads");

    const auto grad = fill(planes.size());
    std::vector<double> want_spatial(spatial.size()), want_hop(hop.size()), want_token(heads);
    int64_t pair = 0, entry = 0;
    const double tolerance = 20 * std::numeric_limits<T>::epsilon();
    for (int64_t g = 0; g < problem.num_graphs; ++g) {
        const int64_t side = batch.cu_nodes[g + 1] - batch.cu_nodes[g] + 1;
        for (int64_t i = 0; i < side; ++i) {
            for (int64_t j = 0; j < side; ++j, ++entry) {
                for (int64_t h = 0; h < heads; ++h) {
                    const T got = planes[h * problem.plane_size + entry];
                    const double g_out = grad[h * problem.plane_size + entry];
                    if (i == 0 || j == 0) {
                        check::that(got == token[h], "token");
                        want_token[h] += g_out;
                        continue;
                    }
                    const int64_t d = features.distance[pair];
                    if (d >= far) {
                        check::that(got == -std::numeric_limits<T>::infinity(), "far apart");
                        continue;
                    }
                    const double weight =
                        1.0 / static_cast<double>(std::clamp<int64_t>(d, 1, divisor));
                    double want = spatial[(d + 1) * heads + h];
                    want_spatial[(d + 1) * heads + h] += g_out;
                    for (int64_t k = 0; k < hops; ++k) {
                        const int64_t at = (k * codes + features.hops[pair * hops + k]) * heads + h;
                        want += hop[at] * weight;
                        want_hop[at] += g_out * weight;
                    }
                    check::that(std::abs(got - want) <= tolerance * 4, "entry of a plane");
                }
                if (i > 0 && j > 0) ++pair;
            }
        }
    }
    std::vector<T> d_spatial(spatial.size()), d_hop(hop.size()), d_token(heads);
    pair_bias_backward(problem, grad.data(), d_spatial.data(), d_hop.data(), d_token.data(),
                       serial);
    const auto near = [&](const std::vector<T>& got, const std::vector<double>& want,
                          const char* what) {
        for (size_t x = 0; x < got.size(); ++x) {
            check::that(std::abs(got[x] - want[x]) <= tolerance * 100,
                        std::string("gradient of ") + what);
        }
    };
    near(d_spatial, want_spatial, "spatial");
    near(d_hop, want_hop, "hop");
    near(d_token, want_token, "token");
    auto s = d_spatial, h = d_hop, t = d_token;
    pair_bias_backward(problem, grad.data(), s.data(), h.data(), t.data(), threads);
    check::that(s == d_spatial && h == d_hop && t == d_token, "equal gradients for any threads");
}

}  // namespace

int main() {
    for (uint32_t seed = 0; seed < 5; ++seed) {
        check_features(seed);
        check_bias<float>(DType::kFloat32, seed);
        check_bias<double>(DType::kFloat64, seed);
    }
    check_refusals();
    check_unique();
    return check::finish("graph_test");
}
