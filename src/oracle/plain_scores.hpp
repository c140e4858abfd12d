// The scores of a row as plain loops in float, and how far rounding may move each, for the plain
// float programs that tolerances are measured with.
#pragma once

#include <attn/attention.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace attn::detail {

/// Whether each key of a row is visible, [kv_len], by all masks of a dense call.
std::vector<bool> visible_keys(const AttentionTensors& tensors, const AttentionOptions& options,
                               std::int64_t batch, std::int64_t q_head, std::int64_t q_index);

/// A row of a dense call with a run of all keys.
KeyRun plain_row(const AttentionTensors& tensors, const AttentionOptions& options,
                 std::int64_t batch, std::int64_t q_head, std::int64_t q_index);
/// The number of keys of a batch entry.
std::int64_t plain_kv_length(const AttentionTensors& tensors, std::int64_t batch);
/// The key that the first column of the dense mask stands for. It may be below 0.
std::int64_t plain_first_key(const AttentionTensors& tensors, const AttentionOptions& options,
                             std::int64_t batch);

/// A sum of products, the sum of their magnitudes, and the sum of the squares of all partial sums.
struct PlainDot {
  float sum = 0;
  float magnitude = 0;
  double squares = 0;

  /// How far rounding may move the sum. Each step rounds the partial sum, by up to eps / 2 of it
  /// and with a deviation of about eps / 4. So eps times the root of their squares is four
  /// deviations. Other programs add in other orders, in which partial sums of either sign may be
  /// larger than here; eps times the magnitude is the least that is allowed for.
  float spread() const;
};
PlainDot plain_dot(const float* a, const float* b, std::int64_t count);

/// A row of a dense f32 tensor [batch, heads, positions, dim].
const float* float_row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                          std::int64_t position);

/// The scores of a row after each step that a gradient passes through. All have an element for each
/// key.
struct PlainScores {
  std::vector<float> values;         // masked: -inf for hidden keys
  std::vector<float> spread;         // how far rounding may move each of them
  std::vector<float> biased;         // what score_mod receives
  std::vector<float> softcap_slope;  // the derivative of the softcap; 1 without one
  std::vector<float> softcap_slope_spread;
};
/// `q` and `k` are dense copies in f32 of the tensors of the call.
PlainScores plain_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                         const Tensor& q, const Tensor& k, const KeyRun& row);

inline bool is_hidden(float score) { return score == -std::numeric_limits<float>::infinity(); }

/// NaN if any score is NaN.
float largest_score(const std::vector<float>& scores);

/// (alpha - 1) (s - max s) - tau for each score: what the probabilities of entmax are powers of.
/// Those up to 0 have none.
std::vector<float> above_threshold(float alpha, const std::vector<float>& scores);

/// How far a function's value moves if its argument moves by `spread`.
template <class F>
float spread_of(F f, float x, float spread) {
  const float value = f(x);
  return std::max(std::abs(f(x + spread) - value), std::abs(value - f(x - spread)));
}

}  // namespace attn::detail
