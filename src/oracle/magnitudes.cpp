#include "oracle/magnitudes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {

double largest_finite(const Tensor& tensor) {
  double largest = 0;
  const double* const values = tensor.data<double>();
  for (std::int64_t n = 0; n < tensor.size(); ++n) {
    if (std::isfinite(values[n])) largest = std::max(largest, std::abs(values[n]));
  }
  return largest;
}

double half_ulp(DType dtype, double magnitude) {
  if ((dtype != DType::bf16 && dtype != DType::f16) || magnitude == 0) return 0;
  const bool half = dtype == DType::f16;
  const int exponent = std::max(std::ilogb(magnitude), half ? -14 : -126);
  return std::ldexp(1, exponent - (half ? 10 : 7) - 1);
}

double subnormal_rounding(std::int64_t kv_len) {
  return (4 + static_cast<double>(kv_len) / 2) * double{std::numeric_limits<float>::denorm_min()};
}

}  // namespace attn::detail
