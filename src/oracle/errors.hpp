// How far two results are apart.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

struct Errors {
  double max_abs = 0;  // infinite where only one of the two is NaN, or infinities differ
  double max_rel =
      0;  // max |value - reference| / |reference|, where the reference is finite, not 0
  double rms = 0;
  std::vector<std::int64_t> worst;  // index of max_abs; empty if there is no error
};

/// Compares two tensors of one shape. NaN equals NaN, and an infinity equals itself.
Errors errors_between(const TensorView& values, const TensorView& reference);

/// The absolute error of one element, with the same rules.
double error_of(double value, double reference);

}  // namespace attn::detail
