// Gradients of sparsemax and entmax, slice by slice and in double. Only elements of the support
// take part, and those are usually few.
//
// The gradient with respect to x. With the slopes s_i = y_i^(2 - alpha) on the support,
//
//   dx_i = s_i (dy_i - mean),   mean = sum_j s_j dy_j / sum_j s_j
//
// The mean needs only ratios of slopes. They are computed relative to the greatest slope, so that
// no power leaves the range of a double.
//
// The gradient with respect to alpha. With b = alpha - 1, u_i = b x_i - tau, l_i = log y_i
// = (log u_i) / b, and the entropy H = - sum_j y_j l_j:
//
//   dy_i / db = y_i (- l_i / b + (du_i / db) / (b u_i)),   where y_i / u_i = s_i and
//   du_i / db = x_i - dtau / db = (u_i + tau) / b - dtau / db
//
// The sum of y is always 1, so the sum of dy_i / db is 0, which determines dtau / db:
//
//   dy_i / db = (y_i - r_i) / b^2 + (- y_i l_i - r_i H) / b,   r_i = s_i / sum_j s_j
//
// For small b these terms cancel. As s_i = y_i exp(-b l_i), write exp(-v) = 1 - v + v^2 phi(v) with
// v = b l_i. Then sum_j s_j = 1 + b H + b^2 Q with Q = sum_j y_j l_j^2 phi(b l_j), and no
// denominator contains b any more:
//
//   dy_i / db = r_i Q - y_i l_i^2 phi(b l_i)
//
// phi(0) = 1/2 gives the limit at alpha = 1. phi grows as y^-b for small y, so the first form is
// used for b >= 1. Both have the form dy_i / db = g_i - r_i sum_j g_j, with g_i = - y_i l_i^2 phi(b
// l_i) or g_i = y_i / b^2 - y_i l_i / b.
#include <attn/softmax.hpp>

#include <algorithm>
#include <cmath>

#include "iterate/slices.hpp"
#include "softmax/entmax_slopes.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/arguments.hpp"

namespace attn {
using namespace detail;
namespace {

bool any_nan(const float* y, std::int64_t count) noexcept {
  return std::any_of(y, y + count, [](float value) { return std::isnan(value); });
}

void backward_slice(const Slice& slice, float alpha) noexcept {
  const float *const dy = slice.in[0], *const y = slice.in[1];
  float* const dx = slice.out[0];
  if (any_nan(y, slice.extent)) return void(std::fill_n(dx, slice.extent, NAN));
  const Slopes slopes(y, slice.extent, alpha);
  double sum = 0, weighted = 0;
  for (std::int64_t n = 0; n < slice.extent; ++n) {
    if (!(y[n] > 0)) continue;
    const double slope = slopes(y[n]);
    sum += slope;
    weighted += slope * dy[n];
  }
  const double mean = sum > 0 ? weighted / sum : 0;
  const double greatest_slope = slopes.greatest();
  for (std::int64_t n = 0; n < slice.extent; ++n) {
    dx[n] = y[n] > 0 ? static_cast<float>(slopes(y[n]) * (dy[n] - mean) * greatest_slope) : 0;
  }
}

/// (exp(-v) - 1 + v) / v^2
double phi(double v) noexcept {
  if (std::fabs(v) > 0.05) return (std::expm1(-v) + v) / (v * v);
  double term = 0.5, sum = 0;  // (-v)^k / (k + 2)!
  for (int k = 0; k < 9; ++k) {
    sum += term;
    term *= -v / (k + 3);
  }
  return sum;
}

/// sum_i dy_i (dy_i / dalpha), where the first factor is the incoming gradient.
float alpha_gradient(const float* dy, const float* y, std::int64_t count, float alpha) noexcept {
  if (any_nan(y, count)) return NAN;
  const double b = static_cast<double>(alpha) - 1;
  const auto g = [b](double p) {
    const double l = std::log(p);
    return b < 1 ? -p * l * l * phi(b * l) : p * (1 / b - l) / b;
  };
  const Slopes slopes(y, count, alpha);
  double sum = 0, weighted = 0, slope_sum = 0, slope_weighted = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    if (!(y[n] > 0)) continue;
    const double part = g(y[n]), slope = slopes(y[n]);
    sum += part;
    weighted += part * dy[n];
    slope_sum += slope;
    slope_weighted += slope * dy[n];
  }
  return slope_sum > 0 ? static_cast<float>(weighted - slope_weighted / slope_sum * sum) : 0;
}

}  // namespace

void entmax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                     float alpha, int dim, const Execution& execution) {
  require_alpha(alpha);
  require_input("y", y);
  dim = checked_dim("y", y, dim);
  require_input_like("dy", dy, "y", y);
  require_output_like("dx", dx, "y", y);
  for_each_slice({.in = {dy, y}, .out = {dx}, .dim = dim}, resolve(execution),
                 [alpha](const Slice& slice) { backward_slice(slice, alpha); });
}

void sparsemax_backward(const TensorView& dy, const TensorView& y, const MutableTensorView& dx,
                        int dim, const Execution& execution) {
  entmax_backward(dy, y, dx, 2, dim, execution);
}

void entmax_backward_alpha(const TensorView& dy, const TensorView& y,
                           const MutableTensorView& dalpha, float alpha, int dim,
                           const Execution& execution) {
  require_alpha(alpha);
  require_input("y", y);
  dim = checked_dim("y", y, dim);
  require_input_like("dy", dy, "y", y);
  require_reduced_output("dalpha", dalpha, "y", y, dim);
  Tensor gradients(DType::f32, dalpha.shape);
  float* const gradient = gradients.data<float>();
  for_each_slice({.in = {dy, y}, .dim = dim}, resolve(execution), [&](const Slice& slice) {
    gradient[slice.index] = alpha_gradient(slice.in[0], slice.in[1], slice.extent, alpha);
  });
  copy_into(gradients.view(), dalpha);
}

}  // namespace attn
