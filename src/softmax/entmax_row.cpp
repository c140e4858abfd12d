// One row of entmax: y_i = max((alpha - 1) x_i - tau, 0)^p with p = 1 / (alpha - 1).
//
// With d_i = x_i - max x <= 0 and t = tau / (alpha - 1) - max x, let u_i = max(d_i - t, 0); then
// y_i = ((alpha - 1) u_i)^p. The y of the maximum is at most 1, so t >= -p, and only elements with
// d > -p can be in the support. These are selected first, and the search for t reads no others.
//
// For p = 1 (sparsemax) and p = 2 (entmax 1.5) the search is Newton's method on the p-norm of u,
// which is to be p:
//
//   norm(t) = (sum u^p)^(1/p),   t' = t + (sum u^p / sum u^(p-1)) (1 - p / norm)
//
// A norm is convex, so steps that come from the left stay on the left, and for equal elements it is
// linear, so one step is enough. Once the support is known, t has a formula: for p = 1 it is
// Newton's step, for p = 2 the root of a quadratic equation. A row is passed over once for the
// maximum, once to select, and once to write; the selected elements are passed over a few times.
#include <algorithm>
#include <cmath>
#include <limits>

#include "softmax/entmax_root.hpp"
#include "softmax/row_functions.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {
namespace {

using kernels::Kernels;
using kernels::SumsAboveThreshold;
using kernels::Threshold;

constexpr float infinity = std::numeric_limits<float>::infinity();

RowThreshold softmax_threshold(const Kernels& kernels, const float* x, std::int64_t count, float* y,
                               float* scratch) noexcept {
  float tau = 0;
  logsumexp_rows(kernels, {x, 0, 1, count}, 1, &tau);
  float* const probabilities = y != nullptr ? y : scratch;
  softmax_rows(kernels, {x, 0, 1, count}, 1, {probabilities, 0});
  return {tau, std::count_if(probabilities, probabilities + count, [](float p) { return p > 0; })};
}

Threshold threshold_at(double t) noexcept {
  const auto high = static_cast<float>(t);
  return {high, static_cast<float>(t - high)};
}

/// A float below t, for selections that must keep everything above t.
float bound_below(double t) noexcept { return std::nextafter(static_cast<float>(t), -infinity); }

// For each form: surplus() is the sum of y less 1, newton() is Newton's step, and exact() is the
// step to the solution for an unchanged support, NaN if that support has none.

struct Sparsemax {
  static constexpr double power = 1;
  static double surplus(const SumsAboveThreshold& sums) noexcept { return sums.sum - 1; }
  static double newton(const SumsAboveThreshold& sums) noexcept { return exact(sums); }
  static double exact(const SumsAboveThreshold& sums) noexcept {
    return (sums.sum - 1) / static_cast<double>(sums.count);
  }
};
struct Entmax15 {
  static constexpr double power = 2;
  static double surplus(const SumsAboveThreshold& sums) noexcept {
    return sums.sum_of_squares / 4 - 1;
  }
  static double newton(const SumsAboveThreshold& sums) noexcept {
    return (sums.sum_of_squares - 2 * std::sqrt(sums.sum_of_squares)) / sums.sum;
  }
  /// Solves sum (u - step)^2 = 4.
  static double exact(const SumsAboveThreshold& sums) noexcept {
    const double rest = sums.sum_of_squares - 4;
    return rest /
           (sums.sum + std::sqrt(sums.sum * sums.sum - static_cast<double>(sums.count) * rest));
  }
};

struct Solution {
  double t;
  std::int64_t support;
};

/// Starts at a t that is not above the solution, and returns it if the sum of y is not above 1
/// there. Overwrites d.
template <class Form>
Solution solve(const Kernels& kernels, float* d, std::int64_t count, double t) noexcept {
  // An error of the sum of y, that is of all elements together, that equals what rounding y to
  // floats may cause.
  constexpr double small = 0x1p-23;
  constexpr int most_steps = 1000;  // about five are usual; the limit excludes cycles by rounding
  std::int64_t support = count + 1;
  bool may_jump = true, jumped = false;
  for (int n = 0; n < most_steps; ++n) {
    const SumsAboveThreshold sums = kernels.sums_above_threshold(d, count, threshold_at(t));
    const bool settled = sums.count == support;
    support = sums.count;
    const double surplus = Form::surplus(sums);
    const bool found = settled && jumped, good = !jumped && std::fabs(surplus) <= small,
               not_above = n == 0 && surplus < 0;
    if (found || good || not_above) return {t, support};
    // The last exact step changed the support that it was computed for. If it went too far to the
    // right, Newton's step leads back to the left.
    if (jumped) may_jump = false;
    const bool left = !jumped;
    const double exact = Form::exact(sums);
    jumped = settled && may_jump && std::isfinite(exact);
    const double step = jumped ? exact : Form::newton(sums);
    if (left && 2 * support < count) count = kernels.compress_above(d, count, 0, bound_below(t), d);
    t += step;
  }
  return {t, support};
}

/// Finds t for a whole row. The threshold of a sample bounds that of the row from below, since
/// further elements can only raise it, and so fewer elements need to be selected.
template <class Form>
Solution find_threshold(const Kernels& kernels, const float* x, std::int64_t count, float maximum,
                        float* scratch) noexcept {
  constexpr std::int64_t sampled = 16;  // one element of 16 is in the sample
  constexpr std::int64_t least_sample = 128;
  double t = -Form::power;
  if (count / sampled >= least_sample) {
    const std::int64_t kept =
        kernels.compress_above(x, count / sampled, maximum, bound_below(t), scratch);
    t = solve<Form>(kernels, scratch, kept, t).t;
  }
  const std::int64_t kept = kernels.compress_above(x, count, maximum, bound_below(t), scratch);
  return solve<Form>(kernels, scratch, kept, t);
}

}  // namespace

void require_alpha(float alpha) {
  if (!(std::isfinite(alpha) && alpha >= 1))
    reject(fmt::format("alpha is {}; it needs a finite number of 1 or more", alpha));
}

EntmaxThreshold find_entmax_threshold(const Kernels& kernels, const float* x, std::int64_t count,
                                      float alpha, float* scratch) noexcept {
  const float maximum = greatest(kernels, x, count);
  EntmaxThreshold threshold{alpha, maximum, {}, {}, {}};
  if (!std::isfinite(maximum)) {
    const bool empty = maximum == -infinity;
    threshold.row = {empty ? -infinity : std::numeric_limits<float>::quiet_NaN(), 0};
  } else if (alpha == 2) {
    const Solution found = find_threshold<Sparsemax>(kernels, x, count, maximum, scratch);
    threshold.above = threshold_at(found.t);
    threshold.row = {static_cast<float>(found.t + maximum), found.support};
  } else if (alpha == 1.5F) {
    const Solution found = find_threshold<Entmax15>(kernels, x, count, maximum, scratch);
    threshold.above = threshold_at(found.t);
    threshold.row = {static_cast<float>((found.t + maximum) / 2), found.support};
  } else {
    const double factor = static_cast<double>(alpha) - 1;
    const std::int64_t kept =
        kernels.compress_above(x, count, maximum, bound_below(-1 / factor), scratch);
    threshold.root = find_entmax_root(scratch, kept, factor);
    threshold.row = {static_cast<float>(factor * maximum - threshold.root.s),
                     threshold.root.support};
  }
  return threshold;
}

void entmax_probabilities(const Kernels& kernels, const EntmaxThreshold& threshold, const float* x,
                          std::int64_t count, float* y) noexcept {
  const float maximum = threshold.maximum;
  if (!std::isfinite(maximum)) {
    const bool empty = maximum == -infinity;
    std::fill_n(y, count, empty ? 0 : std::numeric_limits<float>::quiet_NaN());
  } else if (threshold.alpha == 2) {
    kernels.above_threshold(x, count, maximum, threshold.above, y);
  } else if (threshold.alpha == 1.5F) {
    kernels.half_above_threshold_squared(x, count, maximum, threshold.above, y);
  } else {
    for (std::int64_t n = 0; n < count; ++n)
      y[n] = static_cast<float>(threshold.root.probability(x[n] - maximum));
  }
}

RowThreshold entmax_row(const Kernels& kernels, const float* x, std::int64_t count, float alpha,
                        float* y, float* scratch) noexcept {
  if (alpha == 1) return softmax_threshold(kernels, x, count, y, scratch);
  const EntmaxThreshold threshold = find_entmax_threshold(kernels, x, count, alpha, scratch);
  if (y != nullptr) entmax_probabilities(kernels, threshold, x, count, y);
  return threshold.row;
}

}  // namespace attn::detail
