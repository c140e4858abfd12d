// The logarithms of softmax of a row of logits, one at a time, in double.
#pragma once

#include <cstdint>
#include <limits>

#include "softmax/row_functions.hpp"

namespace attn::detail {

/// log p_c = (x_c - shift) - log sum_j exp(x_j - shift). The difference of two floats comes first:
/// it is exact in a double or dwarfs the logarithm, so that large logits lose nothing. Of nothing
/// but -inf, all are -inf.
class LogProbabilities {
 public:
  LogProbabilities(const float* x, std::int64_t count, const LogSum& sum) noexcept
      : x_(x),
        count_(count),
        sum_(sum),
        empty_(sum.rest == -std::numeric_limits<double>::infinity()) {
    if (empty_) sum_.rest = 0;
  }
  /// No element is above -inf.
  bool empty() const noexcept { return empty_; }
  double operator[](std::int64_t c) const noexcept {
    return static_cast<double>(x_[c]) - sum_.shift - sum_.rest;
  }
  /// Of all. In several sums, as an addition waits for the one before it.
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
