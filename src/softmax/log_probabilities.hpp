// The logarithms of softmax of a row of logits, one at a time, in double.
#pragma once

#include <cstdint>
#include <limits>

#include "softmax/row_functions.hpp"

namespace attn {

/// log p_c = (x_c - shift) - log sum_j exp(x_j - shift). The difference of two floats comes first: it is exact in a double or dwarfs
/// the logarithm, so that large logits lose nothing. Of nothing but -inf, all are -inf.
class LogProbabilities {
 public:
  LogProbabilities(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept
      : x_(x), sum_(log_sum_row(kernels, x, count)), empty_(sum_.shift == -std::numeric_limits<float>::infinity()) {
    if (empty_) sum_ = {0, 0};
  }
  /// No element is above -inf.
  bool empty() const noexcept { return empty_; }
  double operator[](std::int64_t c) const noexcept { return static_cast<double>(x_[c]) - sum_.shift - sum_.rest; }

 private:
  const float* x_;
  LogSum sum_;
  bool empty_;
};

}  // namespace attn
