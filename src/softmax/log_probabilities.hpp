// log softmax of a row of logits, one element at a time, in double.
#pragma once

#include <cstdint>
#include <limits>

#include "softmax/row_functions.hpp"

namespace attn::detail {

/// log p_c = (x_c - shift) - log sum_j exp(x_j - shift). The difference of the two floats is taken
/// first: in double it is either exact or so large that the logarithm does not count, so large
/// logits lose no digits. If no logit is above -inf, every log p_c is -inf.
class LogProbabilities {
 public:
  LogProbabilities(const float* x, std::int64_t count, const LogSum& sum) noexcept
      : x_(x),
        count_(count),
        sum_(sum),
        empty_(sum.rest == -std::numeric_limits<double>::infinity()) {
    if (empty_) sum_.rest = 0;
  }
  /// Whether no logit is above -inf.
  bool empty() const noexcept { return empty_; }
  double operator[](std::int64_t c) const noexcept {
    return static_cast<double>(x_[c]) - sum_.shift - sum_.rest;
  }
  /// The sum over all classes. Eight partial sums let additions overlap.
  double sum() const noexcept {
    constexpr std::int64_t lanes = 8;
    double sums[lanes] = {}, sum = 0;
    std::int64_t c = 0;
    for (; c + lanes <= count_; c += lanes) {
      for (std::int64_t lane = 0; lane < lanes; ++lane)
        sums[lane] += static_cast<double>(x_[c + lane]) - sum_.shift;
    }
    for (; c < count_; ++c) sum += static_cast<double>(x_[c]) - sum_.shift;
    for (const double one : sums) sum += one;
    return sum - static_cast<double>(count_) * sum_.rest;
  }

 private:
  const float* x_;
  std::int64_t count_;
  LogSum sum_;
  bool empty_;
};

}  // namespace attn::detail
