// The slopes of entmax, with which gradients pass through it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace attn::detail {

/// The slopes s_i = y_i^(2 - alpha) of elements with y_i > 0, relative to the greatest slope of a
/// row.
class Slopes {
 public:
  Slopes(const float* y, std::int64_t count, float alpha) noexcept
      : exponent_(2 - static_cast<double>(alpha)) {
    for (std::int64_t n = 0; n < count; ++n) {
      if (!(y[n] > 0)) continue;
      const bool greater = exponent_ < 0 ? y[n] < steepest_ : y[n] > steepest_;
      if (greater || steepest_ == 0) steepest_ = y[n];
    }
  }
  /// The slopes of a row of which the element with the greatest slope is known.
  Slopes(float alpha, double steepest) noexcept
      : exponent_(2 - static_cast<double>(alpha)), steepest_(steepest) {}
  /// The element with the greatest slope; 0 if no element is above 0.
  float steepest() const noexcept { return static_cast<float>(steepest_); }
  /// The greatest slope itself, limited to the range of a double.
  double greatest() const noexcept {
    return std::min(std::pow(steepest_, exponent_), std::numeric_limits<double>::max());
  }
  double operator()(double y) const noexcept {
    if (exponent_ == 0) return 1;
    if (exponent_ == 1) return y / steepest_;
    if (exponent_ == 0.5) return std::sqrt(y / steepest_);
    return std::pow(y / steepest_, exponent_);
  }

 private:
  double exponent_;
  double steepest_ = 0;
};

}  // namespace attn::detail
