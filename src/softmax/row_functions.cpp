#include "softmax/row_functions.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// log sum_j exp(x_j / temperature), less maximum / temperature.
double log_of_sum(const float* x, std::int64_t count, float maximum, float temperature) {
  double sum = 0;
  for (std::int64_t n = 0; n < count; ++n) sum += std::exp((double{x[n]} - maximum) / temperature);
  return std::log(sum);
}

}  // namespace

float greatest(const kernels::Kernels&, const float* x, std::int64_t count) noexcept {
  float result = minus_infinity;
  for (std::int64_t n = 0; n < count; ++n) {
    if (std::isnan(x[n])) return x[n];
    result = std::max(result, x[n]);
  }
  return result;
}

float logsumexp_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (maximum == minus_infinity) return maximum;
  return static_cast<float>(double{maximum} / temperature + log_of_sum(x, count, maximum, temperature));
}

void softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (maximum == minus_infinity) {
    std::fill(y, y + count, 0.f);
    return;
  }
  const double log_sum = log_of_sum(x, count, maximum, temperature);
  for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<float>(std::exp((double{x[n]} - maximum) / temperature - log_sum));
}

void log_softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (maximum == minus_infinity) {
    std::fill(y, y + count, minus_infinity);
    return;
  }
  const double log_sum = log_of_sum(x, count, maximum, temperature);
  for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<float>((double{x[n]} - maximum) / temperature - log_sum);
}

}  // namespace attn
