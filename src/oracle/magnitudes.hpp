// Magnitudes that tolerances are made of.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>

namespace attn::detail {

/// The largest finite magnitude in an f64 tensor.
double largest_finite(const Tensor& tensor);

/// Half the distance between the numbers of a 16-bit type around a magnitude. 0 for f32 and f64,
/// because 4 eps has room for their rounding.
double half_ulp(DType dtype, double magnitude);

/// Below the normal floats eps is no measure: each of that many products is rounded to a multiple
/// of the smallest float, by up to half of it.
double subnormal_rounding(std::int64_t products);

}  // namespace attn::detail
