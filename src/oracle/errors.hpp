// How far two results are apart.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

struct Errors {
  double max_abs = 0;  // infinite where only one of the two is NaN, or one alone is infinite
  double max_rel =
      0;  // max |value - reference| / |reference|, where the reference is finite, not 0
  double rms = 0;
  std::vector<std::int64_t> worst;  // index of max_abs; empty if there is no error
};

/// Compares two tensors of one shape. NaN equals NaN. An infinity equals itself and every number of
/// `reference` that the type of `values` rounds to it: the probabilities of sigmoid may add up to
/// more than 1, and O to more than the greatest float.
Errors errors_between(const TensorView& values, const TensorView& reference);

/// The absolute error of one element of a type that has all numbers, with the same rules.
double error_of(double value, double reference);

}  // namespace attn::detail
