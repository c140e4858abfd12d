// Newton's method on the p-norm N(s) = (sum u_i^p)^(1/p) of u_i = z_i + s, which is to be 1:
//
//   s' = s - (sum u^p / sum u^(p-1)) (1 - 1 / N)
//
// For p >= 1 a norm is convex, so steps that come down from s = 1 never pass the root. For equal
// elements the norm is linear, and for large p it approaches log-sum-exp; either way one step is
// enough. For p < 1 the norm has an infinite slope wherever an element enters the support. There a
// step that leaves the bracket, or that is more than half as long as the one before, is replaced by
// bisection.
#include "softmax/entmax_root.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double eps = std::numeric_limits<double>::epsilon();
/// Rows of this length and longer get a bound from a sample of their elements first.
constexpr std::int64_t least_sampled = 256;

struct Sums {
  double powers = 0;      // u^p
  double derivative = 0;  // u^(p-1)
};

Sums sums_at(double s, const float* d, std::int64_t count, double factor) noexcept {
  Sums sums;
  for (std::int64_t n = 0; n < count; ++n) {
    const double u = factor * d[n] + s;
    if (!(u > 0)) continue;
    const double power = std::pow(u, 1 / factor);
    sums.powers += power;
    sums.derivative += power / u;
  }
  return sums;
}

/// The interval that holds the root.
struct Bracket {
  double low, high;
  /// The arithmetic mean if the ends have the same order of magnitude, else the geometric mean.
  double middle() const noexcept {
    return low > 0 && high > 4 * low ? std::sqrt(low) * std::sqrt(high) : low + (high - low) / 2;
  }
  bool contains(double s) const noexcept { return s > low && s < high; }
  bool closed() const noexcept {
    return high - low <= eps * low || high <= std::numeric_limits<double>::min();
  }
};

/// Starts at the bracket's upper end, and returns it if the sum is less than 1 even there.
double solve(Bracket bracket, const float* d, std::int64_t count, double factor) noexcept {
  // For p >= 1 convergence is quadratic: a step that changes probabilities by 1e-5 leaves an error
  // of about 1e-10.
  const double small = factor <= 1 ? 1e-5 * factor : eps;
  constexpr int most_steps = 2000;  // enough to bisect from 1 down to the least positive double
  double s = bracket.high, step_before = infinity;
  for (int n = 0; n < most_steps && !bracket.closed(); ++n) {
    const Sums sums = sums_at(s, d, count, factor);
    (sums.powers > 1 ? bracket.high : bracket.low) = s;
    const double step = sums.powers / sums.derivative * std::expm1(-std::log(sums.powers) * factor);
    const double newton = s + step;
    // For p < 1 the result is never below an s whose sum is 1 or more: the last bit may decide
    // about an element, and u = 1e-17 may be a probability of 1e-2.
    if (std::fabs(step) <= small * s) return factor <= 1 ? newton : std::max(s, newton);
    const bool good = bracket.contains(newton) && std::fabs(step) <= 0.5 * step_before;
    const double next = good ? newton : bracket.middle();
    step_before = std::fabs(next - s);
    s = next;
  }
  return bracket.high;
}

/// Gives the last elements of the support what the other probabilities leave.
void set_last(EntmaxRoot& root, double last_z, const float* d, std::int64_t count) noexcept {
  double others = 0, last = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    if (root.factor * d[n] == last_z) {
      ++last;
    } else {
      others += root.probability(d[n]);
    }
  }
  root.last_z = last_z;
  root.last_probability = std::max(0., (1 - others) / last);
  if (!(root.last_probability > 0)) root.support -= static_cast<std::int64_t>(last);
}

}  // namespace

EntmaxRoot find_entmax_root(float* d, std::int64_t count, double factor) noexcept {
  // If only the elements at the maximum were there, s would be ties^(-1/p). The greatest of `count`
  // probabilities is at least 1 / count, so s is at least count^(-1/p).
  const auto ties = static_cast<double>(std::count(d, d + count, 0.f));
  Bracket bracket{std::pow(static_cast<double>(count), -factor), std::pow(ties, -factor)};
  if (factor <= 1 && count >= least_sampled) {
    // Further elements can only raise the threshold, so the root for a few bounds that for all.
    bracket.high = solve(bracket, d, count / 16, factor);
    count =
        std::remove_if(d, d + count,
                       [&](float one) { return one < 0 && !(factor * one + bracket.high > 0); }) -
        d;
  }
  EntmaxRoot root{factor, bracket.high, 1, infinity, 0, 0};
  if (bracket.low < bracket.high) root.s = solve(bracket, d, count, factor);
  double last_z = infinity;
  for (std::int64_t n = 0; n < count; ++n) {
    const double z = factor * d[n];
    if (z < 0 && !(z + root.s > 0)) continue;
    last_z = std::min(last_z, z);
    ++root.support;
  }
  if (factor <= 1) {
    root.sum = sums_at(root.s, d, count, factor).powers;
  } else {
    set_last(root, last_z, d, count);
  }
  return root;
}

}  // namespace attn::detail
