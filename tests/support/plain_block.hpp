// An attention block as in the papers, for all tokens of a sequence at once and without a cache: in
// double, or as a plain program in f32 or bf16, whose error bounds the error that a good program
// may have.
#pragma once

#include <attn/transformer.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/functional.hpp"

namespace attn::test {

/// The type that a plain program computes in, and the type that it rounds to between steps.
struct InDouble {
  using Real = double;
  static double rounded(double value) { return value; }
};
struct InFloat {
  using Real = float;
  static float rounded(float value) { return value; }
};
struct InBf16 {
  using Real = float;
  /// Rounds a finite number to nearest even.
  static float rounded(float value) {
    auto bits = std::bit_cast<std::uint32_t>(value);
    bits += 0x7fff + (bits >> 16 & 1);
    return std::bit_cast<float>(bits & 0xffff0000);
  }
};

/// A block's settings and random weights, dense.
struct BlockCase {
  AttentionSettings settings{
      .hidden = 40, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 12, .max_positions = 128};
  bool biases = false, qk_norms = false, alibi = false, sinks = false;
  std::int64_t batch = 1, seq = 9;
  std::vector<std::int64_t> lengths{};  // of sequences without a cache; empty: seq
  std::vector<double> mask{};           // [seq, seq], added; empty: none

  std::int64_t q_width() const { return settings.num_q_heads * settings.head_dim; }
  std::int64_t kv_width() const { return settings.num_kv_heads * settings.head_dim; }
};

inline const char* name_of(AttentionKernel kernel) {
  return kernel == AttentionKernel::tiled     ? "tiled"
         : kernel == AttentionKernel::unfused ? "unfused"
                                              : "reference";
}

struct BlockData {
  explicit BlockData(const BlockCase& c, std::uint64_t seed = 1)
      : random(seed), type(c.settings.dtype) {
    const std::int64_t hidden = c.settings.hidden, dim = c.settings.head_dim,
                       heads = c.settings.num_q_heads;
    q = matrix(c.q_width(), hidden), k = matrix(c.kv_width(), hidden),
    v = matrix(c.kv_width(), hidden);
    out = matrix(hidden, c.q_width());
    if (c.biases) {
      for (auto [bias, width] : {std::pair{&q_bias, c.q_width()},
                                 {&k_bias, c.kv_width()},
                                 {&v_bias, c.kv_width()},
                                 {&out_bias, hidden}}) {
        *bias = normal({width}, 0, 0.3);
      }
    }
    if (c.qk_norms) q_norm = normal({dim}, 1, 0.2), k_norm = normal({dim}, 1, 0.2);
    if (c.alibi) alibi_slopes = normal({heads}, 0.2, 0.05, DType::f32);
    if (c.sinks) sinks = normal({heads}, 0, 1, DType::f32);
    x = normal({c.batch, c.seq, hidden}, 0, 1);
  }

  AttentionParameters weights() const {
    return {.q = {q.view(), q_bias.view_if_made()},
            .k = {k.view(), k_bias.view_if_made()},
            .v = {v.view(), v_bias.view_if_made()},
            .out = {out.view(), out_bias.view_if_made()},
            .q_norm = q_norm.view_if_made(),
            .k_norm = k_norm.view_if_made(),
            .alibi_slopes = alibi_slopes.view_if_made(),
            .sinks = sinks.view_if_made()};
  }
  StridedTensor normal(const Dims& shape, double mean, double deviation) {
    return normal(shape, mean, deviation, type);
  }
  StridedTensor normal(const Dims& shape, double mean, double deviation, DType dtype) {
    return tensor_of(dtype, shape, Layout::bhsd,
                     normal_values(random, shape.product(), mean, deviation));
  }
  StridedTensor matrix(std::int64_t rows, std::int64_t columns) {
    return normal({rows, columns}, 0, 1.5 / std::sqrt(static_cast<double>(columns)));
  }

  Random random;
  DType type;
  StridedTensor q, k, v, out, q_bias, k_bias, v_bias, out_bias, q_norm, k_norm, alibi_slopes, sinks,
      x;
};

template <class Numbers>
class PlainBlock {
 public:
  using Real = typename Numbers::Real;
  using Row = std::vector<Real>;

  PlainBlock(const BlockCase& block, const BlockData& data)
      : case_(block), data_(data), settings_(block.settings) {}

  /// y [batch, seq, hidden].
  std::vector<double> run() const {
    std::vector<double> y;
    for (std::int64_t entry = 0; entry < case_.batch; ++entry) {
      for (const Row& row : sequence(entry)) y.insert(y.end(), row.begin(), row.end());
    }
    return y;
  }

 private:
  static Row rounded(Row row) {
    for (Real& value : row) value = Numbers::rounded(value);
    return row;
  }
  static Row numbers(const StridedTensor& tensor) {
    if (tensor.view_if_made().absent()) return {};
    const std::vector<double> values = tensor.values();
    return Row(values.begin(), values.end());
  }

  static Row project(const Row& x, const Row& weight, const Row& bias) {
    Row y(weight.size() / x.size());
    for (std::size_t o = 0; o < y.size(); ++o) {
      Real sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * weight[o * x.size() + i];
      y[o] = sum + (bias.empty() ? 0 : bias[o]);
    }
    return y;
  }

  void normalize(Row& heads, const Row& scale) const {
    const auto dim = static_cast<std::size_t>(settings_.head_dim);
    for (std::size_t first = 0; !scale.empty() && first < heads.size(); first += dim) {
      Real squares = 0;
      for (std::size_t d = 0; d < dim; ++d) squares += heads[first + d] * heads[first + d];
      const Real factor =
          1 / std::sqrt(squares / static_cast<Real>(dim) + Real(settings_.qk_norm.epsilon));
      for (std::size_t d = 0; d < dim; ++d)
        heads[first + d] = Numbers::rounded(heads[first + d] * factor * scale[d]);
    }
  }

  void rotate(Row& heads, std::int64_t position) const {
    if (!settings_.rope) return;
    const auto dim = static_cast<std::size_t>(settings_.head_dim);
    const auto rotary =
        static_cast<std::size_t>(settings_.rope->rotary_dim.value_or(settings_.head_dim));
    for (std::size_t first = 0; first < heads.size(); first += dim) {
      for (std::size_t n = 0; n < rotary / 2; ++n) {
        const double angle = static_cast<double>(position) *
                             std::pow(settings_.rope->theta,
                                      -2. * static_cast<double>(n) / static_cast<double>(rotary));
        const Real cos = static_cast<Real>(std::cos(angle)),
                   sin = static_cast<Real>(std::sin(angle));
        Real& a = heads[first + (settings_.rope->interleaved ? 2 * n : n)];
        Real& b = heads[first + (settings_.rope->interleaved ? 2 * n + 1 : n + rotary / 2)];
        const Real rotated = a * cos - b * sin;
        b = Numbers::rounded(a * sin + b * cos);
        a = Numbers::rounded(rotated);
      }
    }
  }

  bool visible(std::int64_t query, std::int64_t key) const {
    if (settings_.options.causal && key > query) return false;
    const Window window = settings_.options.window.value_or(Window{});
    return (!window.left || key >= query - *window.left) &&
           (!window.right || key <= query + *window.right);
  }

  Real score(const Row& q, const Row& k, std::int64_t head, std::int64_t query,
             std::int64_t key) const {
    const std::int64_t dim = settings_.head_dim,
                       kv_head = head / (settings_.num_q_heads / settings_.num_kv_heads);
    Real sum = 0;
    for (std::int64_t d = 0; d < dim; ++d)
      sum += q[static_cast<std::size_t>(head * dim + d)] *
             k[static_cast<std::size_t>(kv_head * dim + d)];
    sum *= settings_.options.softmax_scale ? Real(*settings_.options.softmax_scale)
                                           : 1 / std::sqrt(static_cast<Real>(dim));
    if (const auto cap = settings_.options.softcap) sum = Real(*cap) * std::tanh(sum / Real(*cap));
    if (case_.alibi)
      sum -= numbers(data_.alibi_slopes)[static_cast<std::size_t>(head)] *
             static_cast<Real>(std::abs(query - key));
    if (!case_.mask.empty())
      sum += static_cast<Real>(case_.mask[static_cast<std::size_t>(query * case_.seq + key)]);
    return sum;
  }

  /// The result is zero where no key is visible.
  Row attend(const std::vector<Row>& qs, const std::vector<Row>& ks, const std::vector<Row>& vs,
             std::int64_t query, std::int64_t length) const {
    const std::int64_t dim = settings_.head_dim,
                       group = settings_.num_q_heads / settings_.num_kv_heads;
    Row result(static_cast<std::size_t>(case_.q_width()), 0);
    for (std::int64_t head = 0; head < settings_.num_q_heads; ++head) {
      constexpr Real infinity = std::numeric_limits<Real>::infinity();
      const Real sink =
          case_.sinks ? numbers(data_.sinks)[static_cast<std::size_t>(head)] : -infinity;
      Row scores(static_cast<std::size_t>(length), -infinity);
      Real largest = sink;
      for (std::int64_t key = 0; key < length; ++key) {
        if (!visible(query, key)) continue;
        Real& at = scores[static_cast<std::size_t>(key)];
        at = score(qs[static_cast<std::size_t>(query)], ks[static_cast<std::size_t>(key)], head,
                   query, key);
        largest = std::max(largest, at);
      }
      if (largest == -infinity) continue;
      Real total = std::exp(sink - largest);
      for (Real& value : scores) total += value = std::exp(value - largest);
      for (std::int64_t d = 0; d < dim; ++d) {
        Real sum = 0;
        for (std::size_t key = 0; key < scores.size(); ++key) {
          sum += Numbers::rounded(scores[key]) *
                 vs[key][static_cast<std::size_t>(head / group * dim + d)];
        }
        result[static_cast<std::size_t>(head * dim + d)] = sum / total;
      }
    }
    return rounded(std::move(result));
  }

  std::vector<Row> sequence(std::int64_t entry) const {
    const Row all = numbers(data_.x), wq = numbers(data_.q), wk = numbers(data_.k),
              wv = numbers(data_.v), wo = numbers(data_.out);
    std::vector<Row> q, k, v, y;
    for (std::int64_t n = 0; n < case_.seq; ++n) {
      const auto begin = all.begin() + (entry * case_.seq + n) * settings_.hidden;
      const Row x(begin, begin + settings_.hidden);
      q.push_back(rounded(project(x, wq, numbers(data_.q_bias))));
      k.push_back(rounded(project(x, wk, numbers(data_.k_bias))));
      v.push_back(rounded(project(x, wv, numbers(data_.v_bias))));
      normalize(q.back(), numbers(data_.q_norm));
      normalize(k.back(), numbers(data_.k_norm));
      rotate(q.back(), n);
      rotate(k.back(), n);
    }
    const std::int64_t length =
        case_.lengths.empty() ? case_.seq : case_.lengths[static_cast<std::size_t>(entry)];
    for (std::int64_t n = 0; n < case_.seq; ++n)
      y.push_back(project(attend(q, k, v, n, length), wo, numbers(data_.out_bias)));
    return y;
  }

  const BlockCase& case_;
  const BlockData& data_;
  const AttentionSettings& settings_;
};

/// The expected y of a block, and its tolerance.
struct Wanted {
  Wanted(const BlockCase& c, const BlockData& data) : y(PlainBlock<InDouble>(c, data).run()) {
    const std::vector<double> plain = c.settings.dtype == DType::bf16
                                          ? PlainBlock<InBf16>(c, data).run()
                                          : PlainBlock<InFloat>(c, data).run();
    double error = 0, largest = 0;
    for (std::size_t n = 0; n < y.size(); ++n) {
      error = std::max(error, std::fabs(plain[n] - y[n]));
      largest = std::max(largest, std::fabs(y[n]));
    }
    // Twice the error of a plain program in that type, plus a few roundings of the largest element.
    tolerance = 2 * error + 4 * 2 * float_unit * largest;
  }
  /// Returns "" if `y` is within the tolerance and the rounding to `dtype`; else the first
  /// difference.
  std::string difference(const std::vector<double>& got, DType dtype = DType::f32) const {
    return first_difference(got, y, [&](std::size_t n) {
      return tolerance + (dtype == DType::f32 ? 0 : rounding_to(dtype, y[n]) * 1.01);
    });
  }

  std::vector<double> y;
  double tolerance = 0;
};

}  // namespace attn::test
