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
  /// scratch: count floats.
  LogProbabilities(const kernels::Kernels& kernels, const float* x, std::int64_t count, float* scratch) noexcept : x_(x) {
    const float maximum = greatest(kernels, x, count);
    empty_ = maximum == -std::numeric_limits<float>::infinity();
    if (empty_) return;  // shift and log_sum of 0 leave -inf
    for (std::int64_t c = 0; c < count; ++c) scratch[c] = x[c] - maximum;
    shift_ = maximum;
    log_sum_ = logsumexp_row(kernels, scratch, count, 1);
  }
  /// No element is above -inf.
  bool empty() const noexcept { return empty_; }
  double operator[](std::int64_t c) const noexcept { return x_[c] - shift_ - log_sum_; }

 private:
  const float* x_;
  double shift_ = 0;
  double log_sum_ = 0;
  bool empty_ = false;
};

}  // namespace attn
