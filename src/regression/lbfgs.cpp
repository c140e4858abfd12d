#include "regression/lbfgs.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace attn::detail {
namespace {

constexpr std::size_t memory = 20;  // pairs

double dot(const std::vector<double>& a, const std::vector<double>& b) noexcept {
  double sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// y += factor x
void add(double factor, const std::vector<double>& x, std::vector<double>& y) noexcept {
  for (std::size_t n = 0; n < x.size(); ++n) y[n] += factor * x[n];
}

}  // namespace

Lbfgs::Lbfgs(const FitProblem& problem) : objective_(problem), preconditioner_(problem) {
  const auto size = static_cast<std::size_t>(objective_.size());
  for (Point* const point : {&at_, &trial_}) {
    point->parameters.resize(size);
    point->gradient.resize(size);
  }
  direction_.resize(size);
  scratch_.resize(size);
  at_.value = objective_(at_.parameters, at_.gradient);
}

bool Lbfgs::step() {
  if (set_direction() && search()) return true;
  // The pairs may mislead, because of rounding or since the Hessian has changed much.
  if (pairs_.empty()) return false;
  pairs_.clear();
  return set_direction() && search();
}

/// The two loops of Nocedal 1980. Returns whether the loss falls along the direction.
bool Lbfgs::set_direction() {
  std::vector<double>& q = scratch_;
  q = at_.gradient;
  std::vector<double> factors(pairs_.size());
  for (std::size_t n = pairs_.size(); n-- > 0;) {
    factors[n] = dot(pairs_[n].step, q) / pairs_[n].product;
    add(-factors[n], pairs_[n].change, q);
  }
  preconditioner_.apply(q, direction_);
  if (!pairs_.empty()) {
    // The initial matrix gets the size that the newest pair asks for.
    const Pair& newest = pairs_.back();
    preconditioner_.apply(newest.change, q);
    const double scale = newest.product / dot(newest.change, q);
    for (double& each : direction_) each *= scale;
  }
  for (std::size_t n = 0; n < pairs_.size(); ++n)
    add(factors[n] - dot(pairs_[n].change, direction_) / pairs_[n].product, pairs_[n].step,
        direction_);
  for (double& each : direction_) each = -each;
  at_.slope = dot(direction_, at_.gradient);
  return std::isfinite(at_.slope) && at_.slope < 0;
}

void Lbfgs::evaluate(double length) {
  trial_.parameters = at_.parameters;
  add(length, direction_, trial_.parameters);
  trial_.value = objective_(trial_.parameters, trial_.gradient);
  trial_.slope = dot(direction_, trial_.gradient);
}

/// Whether the slope has risen enough that a longer step is not worth trying.
bool Lbfgs::long_enough() const noexcept {
  constexpr double part = 0.9;
  return trial_.slope >= part * at_.slope;
}

/// Whether the loss has not fallen as its slope promised. Where it differs by its rounding alone,
/// the slope decides.
bool Lbfgs::too_long() const noexcept {
  constexpr double part = 0.1, rounding = 1e-12;
  if (!std::isfinite(trial_.value.loss) || !std::isfinite(trial_.slope)) return true;
  const double rise = trial_.value.loss - at_.value.loss;
  const bool falls = trial_.slope <= (2 * part - 1) * at_.slope;
  return falls ? rise > rounding * std::abs(at_.value.loss) : true;
}

/// Looks for a length of the step between what is too short and what is too long. Since the loss
/// is convex, its slope rises with the length.
bool Lbfgs::search() {
  constexpr int most_trials = 60;
  constexpr double growth = 3, margin = 0.1;
  double low = 0, low_slope = at_.slope, length = 1;
  std::optional<double> high;
  double high_slope = 0;
  for (int trial = 0; trial < most_trials; ++trial) {
    evaluate(length);
    if (trial_.parameters == at_.parameters) return false;
    if (too_long()) {
      high = length;
      high_slope = trial_.slope;
    } else if (!long_enough()) {
      low = length;
      low_slope = trial_.slope;
    } else {
      remember();
      std::swap(at_, trial_);
      return true;
    }
    if (!high) {
      length *= growth;
      continue;
    }
    // Where a line through both slopes is 0, or the middle.
    double share = 0.5;
    if (std::isfinite(high_slope) && high_slope > low_slope)
      share = std::clamp(-low_slope / (high_slope - low_slope), margin, 1 - margin);
    length = low + share * (*high - low);
  }
  return false;
}

void Lbfgs::remember() {
  Pair pair;
  if (pairs_.size() == memory) {
    pair = std::move(pairs_.front());
    pairs_.pop_front();
  }
  pair.step = trial_.parameters;
  add(-1, at_.parameters, pair.step);
  pair.change = trial_.gradient;
  add(-1, at_.gradient, pair.change);
  pair.product = dot(pair.step, pair.change);
  if (pair.product > 0 && std::isfinite(pair.product)) pairs_.push_back(std::move(pair));
}

}  // namespace attn::detail
