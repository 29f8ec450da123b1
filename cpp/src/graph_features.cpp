#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

#include "unitrans/graph.hpp"

namespace unitrans::graph {
namespace {

constexpr int64_t kMaxNodes = 32767;  // of one graph: paths are kept as int16

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

void check_offsets(const char* name, std::span<const int32_t> offsets, size_t total) {
    if (offsets.empty() || offsets.front() != 0) fail(name, ": expected to start at 0");
    for (size_t g = 1; g < offsets.size(); ++g) {
        if (offsets[g] < offsets[g - 1]) fail(name, ": expected to never fall, entry ", g, " does");
    }
    if (static_cast<size_t>(offsets.back()) != total) {
        fail(name, ": expected to end at ", total, ", got ", offsets.back());
    }
}

void check(const Graphs& graphs, std::span<const int32_t> edge_code, int64_t hops) {
    const size_t edges = graphs.source.size();
    if (graphs.target.size() != edges || edge_code.size() != edges) {
        fail("edges: expected as many targets and codes as sources (", edges, "), got ",
             graphs.target.size(), " and ", edge_code.size());
    }
    if (graphs.cu_edges.size() != graphs.cu_nodes.size()) {
        fail("cu_edges: expected as many entries as cu_nodes (", graphs.cu_nodes.size(), "), got ",
             graphs.cu_edges.size());
    }
    if (hops < 1) fail("hops: expected at least 1, got ", hops);
    if (graphs.cu_nodes.empty()) fail("cu_nodes: expected to start at 0");
    check_offsets("cu_nodes", graphs.cu_nodes, static_cast<size_t>(graphs.cu_nodes.back()));
    check_offsets("cu_edges", graphs.cu_edges, edges);
    for (size_t g = 0; g + 1 < graphs.cu_nodes.size(); ++g) {
        const int64_t n = graphs.cu_nodes[g + 1] - graphs.cu_nodes[g];
        if (n > kMaxNodes) fail("graph ", g, ": expected at most ", kMaxNodes, " nodes, got ", n);
        for (int32_t e = graphs.cu_edges[g]; e < graphs.cu_edges[g + 1]; ++e) {
            for (const int32_t node : {graphs.source[e], graphs.target[e]}) {
                if (node < 0 || node >= n) {
                    fail("graph ", g, ", edge ", e - graphs.cu_edges[g],
                         ": expected nodes from 0 to ", n - 1, ", got ", node);
                }
            }
        }
    }
}

// One graph at a time; the scratch memory is kept between graphs.
class Builder {
  public:
    Builder(int64_t hops, Paths paths, bool hops_are_edges)
        : hops_(hops), paths_(paths), hops_are_edges_(hops_are_edges) {}

    // source, target, code: the edges of this graph; the outputs are its own pieces.
    void build(int64_t n, std::span<const int32_t> source, std::span<const int32_t> target,
               std::span<const int32_t> code, int32_t* degree, int16_t* distance, int32_t* hops) {
        n_ = n;
        distance_ = distance;
        list_edges(source, target, code, degree);
        if (hops_are_edges_) {
            std::copy(edge_.begin(), edge_.end(), hops);
            hop_ = nullptr;
        } else {
            hop_ = hops;
        }
        if (paths_ == Paths::kFloydWarshall) {
            floyd_warshall();
            if (hop_) follow_middles();
        } else {
            for (int64_t from = 0; from < n_; ++from) breadth_first(from);
        }
    }

  private:
    void list_edges(std::span<const int32_t> source, std::span<const int32_t> target,
                    std::span<const int32_t> code, int32_t* degree) {
        edge_.assign(n_ * n_, 0);
        next_.resize(n_);
        for (auto& list : next_) list.clear();
        std::fill(degree, degree + n_, 0);
        for (size_t e = 0; e < source.size(); ++e) {
            int32_t& known = edge_[source[e] * n_ + target[e]];
            if (known == 0) {
                ++degree[source[e]];
                next_[source[e]].push_back(target[e]);
            }
            known = code[e];
        }
    }

    void breadth_first(int64_t from) {
        int16_t* distance = distance_ + from * n_;
        std::fill(distance, distance + n_, kUnreachable);
        distance[from] = 0;
        queue_.assign(1, static_cast<int32_t>(from));
        for (size_t at = 0; at < queue_.size(); ++at) {
            const int64_t node = queue_[at];
            const int16_t steps = distance[node];
            if (steps + 1 >= kUnreachable) break;
            for (const int32_t next : next_[node]) {
                if (distance[next] != kUnreachable) continue;
                distance[next] = static_cast<int16_t>(steps + 1);
                queue_.push_back(next);
                if (!hop_) continue;
                const int32_t* so_far = hop_ + (from * n_ + node) * hops_;
                int32_t* path = hop_ + (from * n_ + next) * hops_;
                std::copy(so_far, so_far + hops_, path);
                if (steps < hops_) path[steps] = edge_[node * n_ + next];
            }
        }
    }

    void floyd_warshall() {
        middle_.assign(n_ * n_, -1);
        for (int64_t i = 0; i < n_; ++i) {
            for (int64_t j = 0; j < n_; ++j) {
                distance_[i * n_ + j] = i == j ? 0 : edge_[i * n_ + j] ? 1 : kUnreachable;
            }
        }
        for (int64_t k = 0; k < n_; ++k) {
            for (int64_t i = 0; i < n_; ++i) {
                if (i != k && distance_[i * n_ + k] < kUnreachable) relax(i, k);
            }
        }
    }

    // Paths from i by way of k, where they are strictly shorter. Without branches, for vectors.
    void relax(int64_t i, int64_t k) {
        int16_t* __restrict row = distance_ + i * n_;
        int16_t* __restrict middle = middle_.data() + i * n_;
        const int16_t* __restrict onward = distance_ + k * n_;
        const int16_t first = row[k], by = static_cast<int16_t>(k);
        for (int64_t j = 0; j < n_; ++j) {
            const int16_t sum = static_cast<int16_t>(first + onward[j]);
            const bool shorter = sum < row[j];
            row[j] = shorter ? sum : row[j];
            middle[j] = shorter ? by : middle[j];
        }
    }

    // Both halves of a path by way of its middle are shorter than it: pairs in order of distance.
    void follow_middles() {
        std::fill(count_, count_ + kUnreachable + 1, 0);
        for (int64_t pair = 0; pair < n_ * n_; ++pair) ++count_[distance_[pair]];
        int32_t first = 0;
        for (int16_t d = 0; d < kUnreachable; ++d) {
            const int32_t size = count_[d];
            count_[d] = first;
            first += size;
        }
        order_.resize(first);
        for (int64_t pair = 0; pair < n_ * n_; ++pair) {
            if (distance_[pair] < kUnreachable) {
                order_[count_[distance_[pair]]++] = static_cast<int32_t>(pair);
            }
        }
        for (const int32_t pair : order_) {
            const int64_t i = pair / n_, j = pair % n_, k = middle_[pair];
            int32_t* path = hop_ + pair * hops_;
            if (i == j) continue;
            if (k < 0) {
                path[0] = edge_[pair];
                continue;
            }
            const int32_t *one = hop_ + (i * n_ + k) * hops_, *two = hop_ + (k * n_ + j) * hops_;
            const int64_t head = std::min<int64_t>(distance_[i * n_ + k], hops_);
            std::copy(one, one + head, path);
            std::copy(two, two + (hops_ - head), path + head);
        }
    }

    const int64_t hops_;
    const Paths paths_;
    const bool hops_are_edges_;

    int64_t n_ = 0;
    int16_t* distance_ = nullptr;
    int32_t* hop_ = nullptr;
    std::vector<int32_t> edge_;               // [n, n] code of the edge (i, j), 0 for none
    std::vector<std::vector<int32_t>> next_;  // different targets in the order of the edges
    std::vector<int32_t> queue_, order_;
    std::vector<int16_t> middle_;  // [n, n] the k of the path from i to j, -1 for an edge
    int32_t count_[kUnreachable + 1];
};

}  // namespace

PairFeatures pair_features(const Graphs& graphs, std::span<const int32_t> edge_code, int64_t hops,
                           Paths paths, bool hops_are_edges) {
    if (hops_are_edges) hops = 1;
    check(graphs, edge_code, hops);
    for (size_t e = 0; e < edge_code.size(); ++e) {
        if (edge_code[e] < 1) fail("edge_code: expected positive numbers, got ", edge_code[e]);
    }
    const size_t num_graphs = graphs.cu_nodes.size() - 1;
    int64_t pairs = 0;
    for (size_t g = 0; g < num_graphs; ++g) {
        const int64_t n = graphs.cu_nodes[g + 1] - graphs.cu_nodes[g];
        pairs += n * n;
    }
    PairFeatures features;
    features.degree.resize(graphs.cu_nodes.back());
    features.distance.resize(pairs);
    features.hops.assign(pairs * hops, 0);
    Builder builder(hops, paths, hops_are_edges);
    int64_t pair = 0;
    for (size_t g = 0; g < num_graphs; ++g) {
        const int64_t node = graphs.cu_nodes[g], n = graphs.cu_nodes[g + 1] - node;
        const size_t edge = graphs.cu_edges[g], edges = graphs.cu_edges[g + 1] - edge;
        builder.build(n, graphs.source.subspan(edge, edges), graphs.target.subspan(edge, edges),
                      edge_code.subspan(edge, edges), features.degree.data() + node,
                      features.distance.data() + pair, features.hops.data() + pair * hops);
        pair += n * n;
    }
    return features;
}

UniqueRows unique_rows(std::span<const int64_t> values, int64_t rows, int64_t width) {
    struct Row {
        const int64_t* at;
        int64_t width;
        bool operator==(const Row& other) const { return std::equal(at, at + width, other.at); }
    };
    struct Hash {
        size_t operator()(const Row& row) const {
            uint64_t hash = 0x9E3779B97F4A7C15u;
            for (int64_t i = 0; i < row.width; ++i) {
                hash = (hash ^ static_cast<uint64_t>(row.at[i])) * 0xFF51AFD7ED558CCDu;
                hash ^= hash >> 32;
            }
            return hash;
        }
    };
    UniqueRows unique;
    unique.code.reserve(rows);
    std::unordered_map<Row, int32_t, Hash> known;
    for (int64_t r = 0; r < rows; ++r) {
        const auto [found, is_new] = known.try_emplace(
            Row{values.data() + r * width, width}, static_cast<int32_t>(unique.first.size() + 1));
        if (is_new) unique.first.push_back(r);
        unique.code.push_back(found->second);
    }
    return unique;
}

}  // namespace unitrans::graph
