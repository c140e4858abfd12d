// y = max((alpha - 1) x - tau, 0)^p of one row, p = 1 / (alpha - 1).
//
// With d = x - max x <= 0 and t = tau / (alpha - 1) - max x, an element's excess is u = d - t, and
// y = ((alpha - 1) u)^p. The y of the maximum is at most 1, so t >= -p, and only elements with d >
// -p can have a part: they are selected, and the search for t sees no others.
//
// The search, for p = 1 and 2, is Newton's method on the p-norm of the excesses, which is to be p:
//
//   norm(t) = (sum u^p)^(1/p);  t' = t + (sum u^p / sum u^(p-1)) (1 - p / norm)
//
// A norm is convex, so that steps from the left stay on the left, and of equal logits it is linear:
// one step. Once the support is found t has a formula: for p = 1 that is Newton's step itself, for
// p = 2 the root of a quadratic equation. In all: one pass for the maximum, one to select, a few
// over what was selected, one to write.
#include <algorithm>
#include <cmath>
#include <limits>

#include "softmax/entmax_root.hpp"
#include "softmax/row_functions.hpp"

namespace attn::detail {
namespace {

using kernels::ExcessSums;
using kernels::Kernels;
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

/// A row without a finite maximum.
RowThreshold without_maximum(float maximum, std::int64_t count, float* y) noexcept {
  const bool empty = maximum == -infinity;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (y != nullptr) std::fill_n(y, count, empty ? 0 : nan);
  return {empty ? -infinity : nan, 0};
}

Threshold threshold_at(double t) noexcept {
  const auto high = static_cast<float>(t);
  return {high, static_cast<float>(t - high)};
}

float bound_below(double t) noexcept { return std::nextafter(static_cast<float>(t), -infinity); }

/// By how much the sum of y is greater than 1, Newton's step, and the step to the solution if the
/// support stays what it is; NaN if it cannot.
struct Sparsemax {
  static constexpr double power = 1;
  static double surplus(const ExcessSums& sums) noexcept { return sums.sum - 1; }
  static double newton(const ExcessSums& sums) noexcept { return exact(sums); }
  static double exact(const ExcessSums& sums) noexcept {
    return (sums.sum - 1) / static_cast<double>(sums.number);
  }
};
struct Entmax15 {
  static constexpr double power = 2;
  static double surplus(const ExcessSums& sums) noexcept { return sums.squares / 4 - 1; }
  static double newton(const ExcessSums& sums) noexcept {
    return (sums.squares - 2 * std::sqrt(sums.squares)) / sums.sum;
  }
  /// sum (u - step)^2 = 4
  static double exact(const ExcessSums& sums) noexcept {
    const double rest = sums.squares - 4;
    return rest /
           (sums.sum + std::sqrt(sums.sum * sums.sum - static_cast<double>(sums.number) * rest));
  }
};

struct Solution {
  double t;
  std::int64_t support;
};

/// From a t that is not above the solution; returns it if the sum of y is not above 1 there. d is
/// overwritten.
template <class Form>
Solution solve(const Kernels& kernels, float* d, std::int64_t count, double t) noexcept {
  // Of the sum of y, and so of all its elements' errors together: what rounding y to floats amounts
  // to.
  constexpr double fine = 0x1p-23;
  constexpr int enough = 1000;  // a handful is the rule; rounding shall not make a circle of it
  std::int64_t support = count + 1;
  bool may_jump = true, jumped = false;
  for (int n = 0; n < enough; ++n) {
    const ExcessSums sums = kernels.excess_sums(d, count, threshold_at(t));
    const bool settled = sums.number == support;
    support = sums.number;
    const double surplus = Form::surplus(sums);
    const bool found = settled && jumped, good = !jumped && std::fabs(surplus) <= fine,
               nowhere = n == 0 && surplus < 0;
    if (found || good || nowhere) return {t, support};
    if (jumped)
      may_jump = false;  // it left the support it was made for; from the right, Newton's step leads
                         // back to the left
    const bool left = !jumped;
    const double exact = Form::exact(sums);
    jumped = settled && may_jump && std::isfinite(exact);
    const double step = jumped ? exact : Form::newton(sums);
    if (left && 2 * support < count) count = kernels.compress_above(d, count, 0, bound_below(t), d);
    t += step;
  }
  return {t, support};
}

/// The bound for everybody is first raised to the threshold of a sample: more elements can only
/// raise it further.
template <class Form>
Solution find(const Kernels& kernels, const float* x, std::int64_t count, float maximum,
              float* scratch) noexcept {
  constexpr std::int64_t sampled = 16;  // one of so many
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

RowThreshold sparsemax_row(const Kernels& kernels, const float* x, std::int64_t count, float* y,
                           float* scratch) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (!std::isfinite(maximum)) return without_maximum(maximum, count, y);
  const Solution found = find<Sparsemax>(kernels, x, count, maximum, scratch);
  if (y != nullptr) kernels.excesses(x, count, maximum, threshold_at(found.t), y);
  return {static_cast<float>(found.t + maximum), found.support};
}

RowThreshold entmax15_row(const Kernels& kernels, const float* x, std::int64_t count, float* y,
                          float* scratch) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (!std::isfinite(maximum)) return without_maximum(maximum, count, y);
  const Solution found = find<Entmax15>(kernels, x, count, maximum, scratch);
  if (y != nullptr) kernels.half_excesses_squared(x, count, maximum, threshold_at(found.t), y);
  return {static_cast<float>((found.t + maximum) / 2), found.support};
}

/// Any alpha > 1.
RowThreshold general_row(const Kernels& kernels, const float* x, std::int64_t count, float alpha,
                         float* y, float* scratch) noexcept {
  const float maximum = greatest(kernels, x, count);
  if (!std::isfinite(maximum)) return without_maximum(maximum, count, y);
  const double factor = static_cast<double>(alpha) - 1;
  const std::int64_t kept =
      kernels.compress_above(x, count, maximum, bound_below(-1 / factor), scratch);
  const EntmaxRoot root = find_entmax_root(scratch, kept, factor);
  if (y != nullptr) {
    for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<float>(root.weight(x[n] - maximum));
  }
  return {static_cast<float>(factor * maximum - root.s), root.support};
}

}  // namespace

RowThreshold entmax_row(const Kernels& kernels, const float* x, std::int64_t count, float alpha,
                        float* y, float* scratch) noexcept {
  if (alpha == 1) return softmax_threshold(kernels, x, count, y, scratch);
  if (alpha == 1.5F) return entmax15_row(kernels, x, count, y, scratch);
  if (alpha == 2) return sparsemax_row(kernels, x, count, y, scratch);
  return general_row(kernels, x, count, alpha, y, scratch);
}

}  // namespace attn::detail
