// The threshold of entmax for any alpha > 1, found in double (Peters, Niculae and Martins 2019,
// arXiv:1905.05702).
#pragma once

#include <cmath>
#include <cstdint>

namespace attn::detail {

/// The root of sum_i (z_i + s)^p = 1 over the elements with z_i > -s, where
///
///   d_i = x_i - max x <= 0,   z_i = (alpha - 1) d_i,   p = 1 / (alpha - 1)
///
/// s lies in (0, 1], and tau = (alpha - 1) max x - s.
struct EntmaxRoot {
  double factor;  // alpha - 1
  double s;
  /// For p >= 1: the sum of the probabilities at s as rounded, by which they are divided.
  double sum;
  /// For p < 1 a probability has an infinite slope at its threshold, and the last bit of s may
  /// change it by 1e-3. So the elements with the least z in the support share equally what the
  /// other probabilities leave of 1.
  double last_z;
  double last_probability;
  std::int64_t support;

  double probability(float d) const noexcept {
    const double z = factor * d, above = z + s;
    if (z == last_z) return last_probability;
    return above > 0 ? std::pow(above, 1 / factor) / sum : 0;
  }
};

/// d holds at least the elements with d_i > -p, among them the maximum, 0. It is overwritten.
EntmaxRoot find_entmax_root(float* d, std::int64_t count, double factor) noexcept;

}  // namespace attn::detail
