// Grouped attention and its gradient as plain loops in double: the formula, nothing else.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace reference {

// Lists as in unitrans::Plan; empty vectors stand for null.
struct Groups {
    std::vector<int32_t> cu_seqlens, token_index, position;

    int64_t row(int64_t m) const { return token_index.empty() ? m : token_index[m]; }
    int64_t place(int64_t g, int64_t m) const {
        return position.empty() ? m - cu_seqlens[g] : position[m];
    }
};

struct Problem {
    int64_t num_queries = 0, num_keys = 0, heads = 0, dim = 0, bias_size = 0;
    Groups query, key;
    std::vector<int64_t> bias_offset;
    std::vector<int32_t> bias_row_stride, reach;
    std::vector<double> q, k, v, bias, scale;  // [T, N, D], [N, P], [N]; bias may be empty
    std::vector<double> grad_out, grad_lse;    // [Tq, N, D], [Tq, N] or empty
    bool qk_norm = false;
    double dropout_p = 0;
    uint64_t seed = 0;

    int64_t num_groups() const { return static_cast<int64_t>(query.cu_seqlens.size()) - 1; }
};

struct Result {
    std::vector<double> out, lse, dq, dk, dv, dbias, dscale;
};

inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
        c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// What a probability is multiplied with.
inline double keep(const Problem& p, int64_t query_row, int64_t key_row, int64_t head) {
    if (p.dropout_p <= 0) return 1;
    const auto words = philox({static_cast<uint32_t>(query_row), static_cast<uint32_t>(key_row / 4),
                               static_cast<uint32_t>(head), 0},
                              static_cast<uint32_t>(p.seed), static_cast<uint32_t>(p.seed >> 32));
    const bool kept = words[key_row % 4] >= std::floor(p.dropout_p * 4294967296.0);
    return kept ? 1 / (1 - p.dropout_p) : 0;
}

// Rows divided by max(norm, 1e-12), with the norms.
inline std::vector<double> normalized(const std::vector<double>& x, int64_t dim,
                                      std::vector<double>& norms) {
    std::vector<double> y = x;
    for (size_t r = 0; r < x.size() / dim; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < dim; ++c) sum += x[r * dim + c] * x[r * dim + c];
        norms.push_back(std::sqrt(sum));
        for (int64_t c = 0; c < dim; ++c) y[r * dim + c] /= std::fmax(norms.back(), 1e-12);
    }
    return y;
}

inline void normalized_gradient(std::vector<double>& g, const std::vector<double>& y, int64_t dim,
                                const std::vector<double>& norms) {
    for (size_t r = 0; r < norms.size(); ++r) {
        double along = 0;
        for (int64_t c = 0; c < dim; ++c) along += g[r * dim + c] * y[r * dim + c];
        for (int64_t c = 0; c < dim; ++c) {
            double& x = g[r * dim + c];
            x = norms[r] < 1e-12 ? 0 : (x - along * y[r * dim + c]) / norms[r];
        }
    }
}

inline Result attention(const Problem& p) {
    const int64_t n = p.heads, d = p.dim;
    std::vector<double> q_norms, k_norms, q = p.q, k = p.k;
    if (p.qk_norm) {
        q = normalized(p.q, d, q_norms);
        k = normalized(p.k, d, k_norms);
    }
    Result r;
    r.out.assign(p.q.size(), 0);
    r.dq.assign(p.q.size(), 0);
    r.dk.assign(p.k.size(), 0);
    r.dv.assign(p.k.size(), 0);
    r.lse.assign(p.num_queries * n, -std::numeric_limits<double>::infinity());
    r.dbias.assign(n * p.bias_size, 0);
    r.dscale.assign(n, 0);
    for (int64_t g = 0; g < p.num_groups(); ++g) {
        const int64_t q0 = p.query.cu_seqlens[g], k0 = p.key.cu_seqlens[g];
        const int64_t nq = p.query.cu_seqlens[g + 1] - q0, nk = p.key.cu_seqlens[g + 1] - k0;
        const int64_t left = p.reach.empty() ? -1 : p.reach[2 * g];
        const int64_t right = p.reach.empty() ? -1 : p.reach[2 * g + 1];
        const int64_t offset = p.bias_offset.empty() ? -1 : p.bias_offset[g];
        for (int64_t h = 0; h < n; ++h) {
            for (int64_t i = 0; i < nq; ++i) {
                const int64_t a = p.query.row(q0 + i) * n + h;
                std::vector<int64_t> reached, plane;
                std::vector<double> s, raw;
                for (int64_t j = 0; j < nk; ++j) {
                    if ((left >= 0 && j < i - left) || (right >= 0 && j > i + right)) continue;
                    const int64_t b = p.key.row(k0 + j) * n + h;
                    double dot = 0;
                    for (int64_t c = 0; c < d; ++c) dot += q[a * d + c] * k[b * d + c];
                    const int64_t place =
                        offset < 0 ? -1
                                   : h * p.bias_size + offset +
                                         p.query.place(g, q0 + i) * p.bias_row_stride[g] +
                                         p.key.place(g, k0 + j);
                    const bool biased = place >= 0 && !p.bias.empty();
                    reached.push_back(b);
                    plane.push_back(place);
                    raw.push_back(dot);
                    s.push_back(p.scale[h] * dot + (biased ? p.bias[place] : 0));
                }
                double max = -std::numeric_limits<double>::infinity(), sum = 0;
                bool nan = false;
                for (const double x : s) {
                    nan = nan || std::isnan(x);
                    max = std::fmax(max, x);
                }
                if (!nan && std::isinf(max) && max < 0) continue;
                if (nan) max = std::numeric_limits<double>::quiet_NaN();
                for (const double x : s) sum += std::exp(x - max);
                r.lse[a] = max + std::log(sum);
                std::vector<double> prob, kept, dp;
                double delta = p.grad_lse.empty() ? 0 : -p.grad_lse[a];
                for (size_t j = 0; j < s.size(); ++j) {
                    prob.push_back(std::exp(s[j] - max) / sum);
                    kept.push_back(keep(p, a / n, reached[j] / n, h));
                    double dot = 0;
                    for (int64_t c = 0; c < d; ++c) {
                        r.out[a * d + c] += prob[j] * kept[j] * p.v[reached[j] * d + c];
                        dot += p.grad_out[a * d + c] * p.v[reached[j] * d + c];
                    }
                    dp.push_back(kept[j] * dot);
                    delta += prob[j] * dp[j];
                }
                for (size_t j = 0; j < s.size(); ++j) {
                    const double ds = prob[j] * (dp[j] - delta);
                    const int64_t b = reached[j];
                    for (int64_t c = 0; c < d; ++c) {
                        r.dq[a * d + c] += p.scale[h] * ds * k[b * d + c];
                        r.dk[b * d + c] += p.scale[h] * ds * q[a * d + c];
                        r.dv[b * d + c] += prob[j] * kept[j] * p.grad_out[a * d + c];
                    }
                    if (plane[j] >= 0) r.dbias[plane[j]] += ds;
                    r.dscale[h] += ds * raw[j];
                }
            }
        }
    }
    if (p.qk_norm) {
        normalized_gradient(r.dq, q, d, q_norms);
        normalized_gradient(r.dk, k, d, k_norms);
    }
    return r;
}

}  // namespace reference
