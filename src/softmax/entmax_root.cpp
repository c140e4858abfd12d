// Newton's method on the p-norm of the excesses u = z + s, N(s) = (sum u^p)^(1/p), which is to be
// 1:
//
//   s' = s - (sum u^p / sum u^(p-1)) (1 - 1 / N)
//
// For p >= 1 a norm is convex, so that steps down from s = 1 never pass the root; for equal logits
// it is linear, and as p grows it becomes log-sum-exp, and one step is enough. For p < 1 slopes are
// infinite where an element enters; steps that leave the bracket, or do not halve from one to the
// next, give way to halving it.
#include "softmax/entmax_root.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr std::int64_t worth_sampling = 256;

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

/// Where the root lies; halved where its ends are of one magnitude, else between their magnitudes.
struct Bracket {
  double low, high;
  double middle() const noexcept {
    return low > 0 && high > 4 * low ? std::sqrt(low) * std::sqrt(high) : low + (high - low) / 2;
  }
  bool contains(double s) const noexcept { return s > low && s < high; }
  bool closed() const noexcept {
    return high - low <= eps * low || high <= std::numeric_limits<double>::min();
  }
};

/// From the bracket's upper end, which is returned if the sum is less than 1 even there.
double solve(Bracket bracket, const float* d, std::int64_t count, double factor) noexcept {
  // For p >= 1 convergence is quadratic: a step that changes weights by 1e-5 leaves an error of
  // some 1e-10.
  const double fine = factor <= 1 ? 1e-5 * factor : eps;
  constexpr int enough = 2000;  // halvings from 1 down to the least positive double
  double s = bracket.high, step_before = infinity;
  for (int n = 0; n < enough && !bracket.closed(); ++n) {
    const Sums sums = sums_at(s, d, count, factor);
    (sums.powers > 1 ? bracket.high : bracket.low) = s;
    const double step = sums.powers / sums.derivative * std::expm1(-std::log(sums.powers) * factor);
    const double newton = s + step;
    // For p < 1 never below an s whose sum is 1 or more: the last bit may be an element, and an
    // excess of 1e-17 a weight of 1e-2.
    if (std::fabs(step) <= fine * s) return factor <= 1 ? newton : std::max(s, newton);
    const bool serves = bracket.contains(newton) && std::fabs(step) <= 0.5 * step_before;
    const double next = serves ? newton : bracket.middle();
    step_before = std::fabs(next - s);
    s = next;
  }
  return bracket.high;
}

void leave_rest(EntmaxRoot& root, double last_z, const float* d, std::int64_t count) noexcept {
  double others = 0, last = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    if (root.factor * d[n] == last_z) {
      ++last;
    } else {
      others += root.weight(d[n]);
    }
  }
  root.last_z = last_z;
  root.last_weight = std::max(0., (1 - others) / last);
  if (!(root.last_weight > 0)) root.support -= static_cast<std::int64_t>(last);
}

}  // namespace

EntmaxRoot find_entmax_root(float* d, std::int64_t count, double factor) noexcept {
  // Alone, the elements at the maximum would have s = ties^(-1/p); all there are can have no less
  // than count^(-1/p) each.
  const auto ties = static_cast<double>(std::count(d, d + count, 0.f));
  Bracket bracket{std::pow(static_cast<double>(count), -factor), std::pow(ties, -factor)};
  if (factor <= 1 && count >= worth_sampling) {
    // More elements only raise the threshold, so that of a few is a bound for all.
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
    leave_rest(root, last_z, d, count);
  }
  return root;
}

}  // namespace attn::detail
