#include "unitrans/pair_bias.hpp"

#include <algorithm>
#include <limits>
#include <sstream>
#include <vector>

namespace unitrans {
namespace {

constexpr int64_t kForwardTasks = 64;
constexpr int64_t kBackwardTasks = 16;  // each has partial sums of its own

// Rows [begin, end) of the plane of one graph.
struct Piece {
    int64_t graph, begin, end;
    int64_t pair;   // first pair of the graph
    int64_t plane;  // first entry of its plane
};

// Cuts the rows of all planes into at most `count` tasks of nearly equal numbers of entries. The cut
// depends on the sizes of the graphs alone.
std::vector<std::vector<Piece>> cut(const PairBias& problem, int64_t count) {
    std::vector<std::vector<Piece>> tasks(1);
    int64_t pair = 0, plane = 0, done = 0;
    const int64_t share = (problem.plane_size + count - 1) / count;
    for (int64_t g = 0; g < problem.num_graphs; ++g) {
        const int64_t n = problem.cu_nodes[g + 1] - problem.cu_nodes[g], side = n + 1;
        for (int64_t begin = 0; begin < side;) {
            const int64_t room = share - done;
            const int64_t rows = std::clamp<int64_t>((room + side - 1) / side, 1, side - begin);
            tasks.back().push_back({g, begin, begin + rows, pair, plane});
            begin += rows;
            done += rows * side;
            if (done >= share) {
                tasks.emplace_back();
                done = 0;
            }
        }
        pair += n * n;
        plane += side * side;
    }
    if (tasks.back().empty()) tasks.pop_back();
    return tasks;
}

int64_t spatial_row(const PairBias& problem, int64_t distance) {
    return std::min(distance + 1, problem.num_spatial - 1);
}

template <class T>
T factor(const PairBias& problem, int64_t distance) {
    return T(1) / static_cast<T>(std::clamp<int64_t>(distance, 1, problem.max_divisor));
}

template <class T>
void forward_piece(const PairBias& p, const Piece& piece, T* planes, std::vector<T>& rows) {
    const int64_t heads = p.num_heads, n = p.cu_nodes[piece.graph + 1] - p.cu_nodes[piece.graph];
    const T *spatial = static_cast<const T*>(p.spatial), *hop = static_cast<const T*>(p.hop),
            *token = static_cast<const T*>(p.token);
    rows.resize(n * heads);
    for (int64_t row = piece.begin; row < piece.end; ++row) {
        T* out = planes + piece.plane + row * (n + 1);
        if (row == 0) {
            for (int64_t h = 0; h < heads; ++h) {
                std::fill_n(out + h * p.plane_size, n + 1, token[h]);
            }
            continue;
        }
        for (int64_t j = 0; j < n; ++j) {
            const int64_t pair = piece.pair + (row - 1) * n + j;
            const int64_t distance = p.distance[pair];
            T* sum = rows.data() + j * heads;
            if (distance >= p.max_distance) {
                std::fill_n(sum, heads, -std::numeric_limits<T>::infinity());
                continue;
            }
            std::fill_n(sum, heads, T(0));
            for (int64_t k = 0; k < p.num_hops; ++k) {
                const T* step = hop + (k * p.num_codes + p.hops[pair * p.num_hops + k]) * heads;
                for (int64_t h = 0; h < heads; ++h) sum[h] += step[h];
            }
            const T* near = spatial + spatial_row(p, distance) * heads;
            const T weight = factor<T>(p, distance);
            for (int64_t h = 0; h < heads; ++h) sum[h] = near[h] + sum[h] * weight;
        }
        for (int64_t h = 0; h < heads; ++h) {
            T* plane = out + h * p.plane_size;
            plane[0] = token[h];
            for (int64_t j = 0; j < n; ++j) plane[j + 1] = rows[j * heads + h];
        }
    }
}

// The sums of one task, [spatial | hop | token].
struct Partial {
    std::vector<double> values;
    double *spatial, *hop, *token;

    explicit Partial(const PairBias& p)
        : values((p.num_spatial + p.num_hops * p.num_codes + 1) * p.num_heads),
          spatial(values.data()),
          hop(spatial + p.num_spatial * p.num_heads),
          token(hop + p.num_hops * p.num_codes * p.num_heads) {}
};

template <class T>
void backward_piece(const PairBias& p, const Piece& piece, const T* grad, Partial& sums,
                    std::vector<T>& rows) {
    const int64_t heads = p.num_heads, n = p.cu_nodes[piece.graph + 1] - p.cu_nodes[piece.graph];
    rows.resize(n * heads);
    for (int64_t row = piece.begin; row < piece.end; ++row) {
        const T* from = grad + piece.plane + row * (n + 1);
        for (int64_t h = 0; h < heads; ++h) {
            const T* plane = from + h * p.plane_size;
            sums.token[h] += plane[0];
            if (row == 0) {
                for (int64_t j = 0; j < n; ++j) sums.token[h] += plane[j + 1];
            } else {
                for (int64_t j = 0; j < n; ++j) rows[j * heads + h] = plane[j + 1];
            }
        }
        if (row == 0) continue;
        for (int64_t j = 0; j < n; ++j) {
            const int64_t pair = piece.pair + (row - 1) * n + j;
            const int64_t distance = p.distance[pair];
            if (distance >= p.max_distance) continue;
            T* g = rows.data() + j * heads;
            double* near = sums.spatial + spatial_row(p, distance) * heads;
            for (int64_t h = 0; h < heads; ++h) near[h] += g[h];
            const T weight = factor<T>(p, distance);
            for (int64_t h = 0; h < heads; ++h) g[h] *= weight;
            for (int64_t k = 0; k < p.num_hops; ++k) {
                const int32_t code = p.hops[pair * p.num_hops + k];
                double* step = sums.hop + (k * p.num_codes + code) * heads;
                for (int64_t h = 0; h < heads; ++h) step[h] += g[h];
            }
        }
    }
}

template <class T>
void forward(const PairBias& problem, T* planes, const Parallel& parallel) {
    const auto tasks = cut(problem, kForwardTasks);
    parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
        std::vector<T> rows;
        for (const Piece& piece : tasks[t]) forward_piece(problem, piece, planes, rows);
    });
}

template <class T>
void backward(const PairBias& problem, const T* grad, T* grad_spatial, T* grad_hop, T* grad_token,
              const Parallel& parallel) {
    // Partial sums take no more memory than the planes do.
    const int64_t sums = (problem.num_spatial + problem.num_hops * problem.num_codes + 1);
    const auto tasks =
        cut(problem, std::clamp<int64_t>(problem.plane_size / sums, 1, kBackwardTasks));
    std::vector<Partial> partials;
    partials.reserve(tasks.size());
    for (size_t t = 0; t < tasks.size(); ++t) partials.emplace_back(problem);
    parallel(static_cast<int64_t>(tasks.size()), [&](int64_t t) {
        std::vector<T> rows;
        for (const Piece& piece : tasks[t]) backward_piece(problem, piece, grad, partials[t], rows);
    });
    const auto collect = [&](double* Partial::* part, T* out, int64_t size) {
        for (int64_t x = 0; x < size; ++x) {
            double sum = 0;
            for (const Partial& partial : partials) sum += (partial.*part)[x];
            out[x] = static_cast<T>(sum);
        }
    };
    collect(&Partial::spatial, grad_spatial, problem.num_spatial * problem.num_heads);
    collect(&Partial::hop, grad_hop, problem.num_hops * problem.num_codes * problem.num_heads);
    collect(&Partial::token, grad_token, problem.num_heads);
}

}  // namespace

std::string pair_bias_fault(const PairBias& p, int64_t num_pairs) {
    std::ostringstream fault;
    int64_t pairs = 0;
    for (int64_t g = 0; g < p.num_graphs; ++g) {
        const int64_t n = int64_t{p.cu_nodes[g + 1]} - p.cu_nodes[g];
        if (n < 0) {
            fault << "cu_nodes must not fall, got " << p.cu_nodes[g] << " then "
                  << p.cu_nodes[g + 1] << " at graph " << g;
            return fault.str();
        }
        pairs += n * n;
    }
    if (p.cu_nodes[0] != 0 || p.cu_nodes[p.num_graphs] != p.num_nodes) {
        fault << "cu_nodes must start at 0 and end at the " << p.num_nodes << " nodes, got "
              << p.cu_nodes[0] << " and " << p.cu_nodes[p.num_graphs];
    } else if (pairs != num_pairs) {
        fault << "distance and hops must have " << pairs << " pairs for these graphs, got "
              << num_pairs;
    }
    int16_t distances = 0;  // below 0 once one is: this and no branch can be vectorized
    for (int64_t i = 0; i < num_pairs; ++i) distances |= p.distance[i];
    if (fault.str().empty() && distances < 0) fault << "distance must be at least 0";
    const auto last = static_cast<int32_t>(p.num_codes - 1);
    int32_t codes = 0;
    for (int64_t i = 0; i < num_pairs * p.num_hops; ++i)
        codes |= p.hops[i] | static_cast<int32_t>(static_cast<uint32_t>(last) -
                                                  static_cast<uint32_t>(p.hops[i]));
    if (fault.str().empty() && codes < 0)
        fault << "hops must hold codes in [0, " << p.num_codes << "), the rows of the hop table";
    return fault.str();
}

void pair_bias_forward(const PairBias& problem, void* planes, const Parallel& parallel) {
    if (problem.dtype == DType::kFloat64) {
        forward(problem, static_cast<double*>(planes), parallel);
    } else {
        forward(problem, static_cast<float*>(planes), parallel);
    }
}

void pair_bias_backward(const PairBias& problem, const void* grad_planes, void* grad_spatial,
                        void* grad_hop, void* grad_token, const Parallel& parallel) {
    const auto run = [&]<class T>(const T* grad) {
        backward(problem, grad, static_cast<T*>(grad_spatial), static_cast<T*>(grad_hop),
                 static_cast<T*>(grad_token), parallel);
    };
    if (problem.dtype == DType::kFloat64) {
        run(static_cast<const double*>(grad_planes));
    } else {
        run(static_cast<const float*>(grad_planes));
    }
}

}  // namespace unitrans
