#include "oracle/errors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/indexing.hpp"

namespace attn::detail {

double error_of(double value, double reference) {
  if (value == reference || (std::isnan(value) && std::isnan(reference))) return 0;
  const double error = std::abs(value - reference);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

Errors errors_between(const TensorView& values, const TensorView& reference) {
  const Tensor got = copy_as(values, DType::f64), expected = copy_as(reference, DType::f64);
  const Tensor rounded = copy_as(copy_as(reference, values.dtype).view(), DType::f64);
  Errors errors;
  double squares = 0;
  for (std::int64_t n = 0; n < expected.size(); ++n) {
    const double value = got.data<double>()[n], truth = expected.data<double>()[n];
    const bool beyond_range = std::isinf(value) && value == rounded.data<double>()[n];
    const double error = beyond_range ? 0 : error_of(value, truth);
    squares += error * error;
    if (truth != 0 && std::isfinite(truth))
      errors.max_rel = std::max(errors.max_rel, error / std::abs(truth));
    if (error > errors.max_abs) {
      errors.max_abs = error;
      const Dims index = index_of(reference.shape, n);
      errors.worst.assign(index.begin(), index.end());
    }
  }
  errors.rms = std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(1, expected.size())));
  return errors;
}

}  // namespace attn::detail
