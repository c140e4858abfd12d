// The threshold of entmax for any alpha > 1, in double.
#pragma once

#include <cmath>
#include <cstdint>

namespace attn::detail {

/// With d = x - max x <= 0 and z = (alpha - 1) d: the s in (0, 1] for which the weights (z + s)^p,
/// p = 1 / (alpha - 1), of the elements with z > -s sum to 1. tau = (alpha - 1) max x - s.
struct EntmaxRoot {
  double factor;  // alpha - 1
  double s;
  /// What is left of rounding, for p >= 1: the sum of the weights as s has them.
  double sum;
  /// For p < 1 a weight's slope at its threshold is infinite, and the least bit of s may be worth
  /// 1e-3. So the elements that are last in the support get what the others leave.
  double last_z;
  double last_weight;
  std::int64_t support;

  double weight(float d) const noexcept {
    const double z = factor * d, excess = z + s;
    if (z == last_z) return last_weight;
    return excess > 0 ? std::pow(excess, 1 / factor) / sum : 0;
  }
};

/// d: all that have d > -p, the maximum among them. It is overwritten.
EntmaxRoot find_entmax_root(float* d, std::int64_t count, double factor) noexcept;

}  // namespace attn::detail
