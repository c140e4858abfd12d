#include "backward/entmax_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "softmax/entmax_slopes.hpp"

namespace attn::detail {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// One row of a tile: what is visible becomes P and dS.
void make_row(const kernels::Kernels& kernels, const EntmaxRowGradient& row, float* scores,
              float* gradients, std::int64_t count) {
  const EntmaxThreshold& threshold = row.threshold;
  const Slopes slopes(threshold.alpha, row.steepest);
  const double greatest = slopes.greatest();
  if (!std::isfinite(threshold.maximum)) {
    const float all =
        threshold.maximum == minus_infinity ? 0.f : std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t n = 0; n < count; ++n)
      scores[n] = gradients[n] = scores[n] == minus_infinity ? 0 : all;
    return;
  }
  if (!std::isfinite(row.mean)) {
    // Then dS of keys with a probability of 0 is 0 times infinity or NaN, and only hidden ones have
    // 0.
    for (std::int64_t n = 0; n < count; ++n) {
      const bool hidden = scores[n] == minus_infinity;
      entmax_probabilities(kernels, threshold, scores + n, 1, scores + n);
      const double slope = scores[n] > 0 ? slopes(scores[n]) * greatest : 0;
      gradients[n] = hidden ? 0 : static_cast<float>(slope * (gradients[n] - row.mean));
    }
    return;
  }
  entmax_probabilities(kernels, threshold, scores, count, scores);
  for (std::int64_t n = 0; n < count; ++n) {
    gradients[n] =
        scores[n] > 0 ? static_cast<float>(slopes(scores[n]) * (gradients[n] - row.mean) * greatest)
                      : 0;
  }
}

}  // namespace

EntmaxRowResult find_entmax_gradient(const kernels::Kernels& kernels, const EntmaxScores& row,
                                     float alpha) noexcept {
  // If the sink is the only score, all probabilities are 0.
  const bool sink_joins =
      row.sink != minus_infinity && greatest(kernels, row.scores, row.count) != minus_infinity;
  float* const y = row.scores;
  for (std::int64_t n = 0; n < row.count; ++n)
    row.gradients[n] = y[n] == minus_infinity ? 0 : row.gradients[n];
  std::int64_t count = row.count;
  if (sink_joins) y[count++] = row.sink;
  EntmaxRowResult result{{find_entmax_threshold(kernels, y, count, alpha, row.search), 0, 0}, 0};
  const float maximum = result.row.threshold.maximum;
  if (!std::isfinite(maximum)) {
    if (sink_joins) result.sink_term = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  entmax_probabilities(kernels, result.row.threshold, y, count, y);
  const Slopes slopes(y, count, alpha);
  double sum = 0, weighted = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    const double slope = y[n] > 0 ? slopes(y[n]) : 0;
    sum += slope;
    if (n < row.count) weighted += slope * double{row.gradients[n]};
  }
  result.row.steepest = slopes.steepest();
  result.row.mean = weighted / sum;
  const bool sink_counts = sink_joins && y[row.count] > 0;
  if (sink_counts) result.sink_term = -slopes(y[row.count]) * slopes.greatest() * result.row.mean;
  return result;
}

void entmax_gradient(const kernels::Kernels& kernels, const kernels::GradientTile& tile,
                     const EntmaxRowGradient* rows) noexcept {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    float* const scores = tile.scores + r * tile.stride;
    float* const gradients = tile.gradients + r * tile.stride;
    const bool sees = tile.begin[r] < tile.end[r];
    const std::int64_t begin = sees ? tile.begin[r] : tile.last;
    const std::int64_t end = sees ? tile.end[r] : tile.last;
    for (float* const row : {scores, gradients}) {
      std::fill(row + tile.first, row + begin, 0.f);
      std::fill(row + end, row + tile.last, 0.f);
    }
    make_row(kernels, rows[r], scores + begin, gradients + begin, end - begin);
  }
}

}  // namespace attn::detail
