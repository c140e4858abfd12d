// y = max((alpha - 1) x - tau, 0)^(1 / (alpha - 1)) of one row.
#include <algorithm>
#include <cmath>
#include <limits>

#include "softmax/entmax_root.hpp"
#include "softmax/row_functions.hpp"

namespace attn {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

RowThreshold softmax_threshold(const kernels::Kernels& kernels, const float* x, std::int64_t count, float* y, float* scratch) noexcept {
  const float tau = logsumexp_row(kernels, x, count, 1);
  float* const probabilities = y != nullptr ? y : scratch;
  softmax_row(kernels, x, count, 1, probabilities);
  return {tau, std::count_if(probabilities, probabilities + count, [](float p) { return p > 0; })};
}

/// A row without a finite maximum.
RowThreshold without_maximum(float maximum, std::int64_t count, float* y) noexcept {
  const bool empty = maximum == -infinity;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (y != nullptr) std::fill_n(y, count, empty ? 0 : nan);
  return {empty ? -infinity : nan, 0};
}

/// d of those elements that may have a part, d = x - maximum > bound.
std::int64_t select_candidates(const float* x, std::int64_t count, float maximum, double bound, float* candidates) noexcept {
  std::int64_t kept = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    candidates[kept] = x[n] - maximum;
    kept += candidates[kept] > bound;
  }
  return kept;
}

}  // namespace

RowThreshold entmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float alpha, float* y,
                        float* scratch) noexcept {
  if (alpha == 1) return softmax_threshold(kernels, x, count, y, scratch);
  const float maximum = greatest(kernels, x, count);
  if (!std::isfinite(maximum)) return without_maximum(maximum, count, y);
  const double factor = static_cast<double>(alpha) - 1;
  const std::int64_t kept = select_candidates(x, count, maximum, -1 / factor, scratch);
  const EntmaxRoot root = find_entmax_root(scratch, kept, factor);
  if (y != nullptr) {
    for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<float>(root.weight(x[n] - maximum));
  }
  return {static_cast<float>(factor * maximum - root.s), root.support};
}

}  // namespace attn
