// Draws do not depend on the machine: nothing here is a fused multiply-add, which rounds once where
// a multiplication and an addition round twice.
#include "softmax/categorical.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "softmax/reproducible.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

Categorical::Categorical(std::int64_t classes) : sums_(static_cast<std::size_t>(classes)) {}

void Categorical::assign(const float* logits, const SampleOptions& options) {
  const float* const greatest = std::max_element(logits, logits + size());
  if (options.temperature == 0) {
    std::fill(sums_.begin(), sums_.end(), 0);
    sums_[static_cast<std::size_t>(greatest - logits)] = 1;
  } else {
    const std::int64_t top_k = options.top_k.value_or(0);
    set_terms(logits, *greatest, options.temperature,
              cutoff_after(logits, top_k == 0 ? size() : top_k));
    if (options.top_p && *options.top_p < 1) keep_top_p(logits, *options.top_p);
    if (options.min_p) {  // the greatest term is 1
      const auto least = static_cast<double>(*options.min_p);
      for (double& term : sums_) term = term < least ? 0 : term;
    }
  }
  std::partial_sum(sums_.begin(), sums_.end(), sums_.begin());
}

std::int64_t Categorical::at(double uniform) const noexcept {
  // The place is less than the total s: s (1 - 2^-53) is not nearer to s than to the double before
  // s.
  const double place = uniform * sums_.back();
  return std::upper_bound(sums_.begin(), sums_.end(), place) - sums_.begin();
}

/// The cutoff that keeps the `count` most probable classes. One pass without sorting: candidates
/// are collected until there are twice as many as wanted, and then the better half is kept.
Categorical::Cutoff Categorical::cutoff_after(const float* logits, std::int64_t count) {
  if (count >= size()) return {-infinity, size()};
  constexpr std::int64_t spare = 64;
  const auto wanted = static_cast<std::size_t>(count),
             full = wanted + static_cast<std::size_t>(std::max(count, spare));
  const auto select = [&] {
    std::nth_element(greatest_.begin(), greatest_.begin() + (count - 1), greatest_.end(),
                     std::greater<>());
  };
  float least = -infinity;  // a logit must be greater to be a candidate
  greatest_.clear();
  for (std::int64_t n = 0; n < size(); ++n) {
    if (!(logits[n] > least)) continue;
    greatest_.push_back(logits[n]);
    if (greatest_.size() < full) continue;
    select();
    greatest_.resize(wanted);
    least = greatest_.back();
  }
  if (greatest_.size() < wanted) return {-infinity, size()};
  select();
  const float last = greatest_[wanted - 1];
  std::int64_t equal = std::count(greatest_.begin(), greatest_.begin() + count, last);
  const float* place = logits - 1;
  for (; equal > 0; --equal) place = std::find(place + 1, logits + size(), last);
  return {last, place - logits};
}

/// Sets the terms of the classes that the cutoff keeps, and 0 for the others.
void Categorical::set_terms(const float* logits, float greatest, float temperature,
                            const Cutoff& cutoff) noexcept {
  const auto term = [&](std::int64_t n) {
    return reproducible_exp((static_cast<double>(logits[n]) - static_cast<double>(greatest)) /
                            static_cast<double>(temperature));
  };
  if (cutoff.index == size()) {
    for (std::int64_t n = 0; n < size(); ++n) sums_[static_cast<std::size_t>(n)] = term(n);
    return;
  }
  for (std::int64_t n = 0; n < size(); ++n)
    sums_[static_cast<std::size_t>(n)] = cutoff.keeps(logits, n) ? term(n) : 0;
}

/// Keeps the most probable classes whose probabilities first reach p in sum. Usually few classes
/// do, so only the first 64 are selected and sorted, and more of them only if necessary.
void Categorical::keep_top_p(const float* logits, float p) {
  constexpr std::int64_t first = 64, growth = 4;
  const Target target{p, std::accumulate(sums_.begin(), sums_.end(), 0.)};
  for (std::int64_t count = first; !keep_within(logits, count, target) && count < size();
       count *= growth) {
  }
}

/// Whether the terms of the `count` most probable classes reach the target. If so, the terms of the
/// classes after the one that reaches it become 0.
bool Categorical::keep_within(const float* logits, std::int64_t count, const Target& target) {
  const Cutoff cutoff = cutoff_after(logits, count);
  most_probable_.clear();
  for (std::int64_t n = 0; n < size(); ++n) {
    if (cutoff.keeps(logits, n) && sums_[static_cast<std::size_t>(n)] > 0)
      most_probable_.push_back(n);
  }
  std::sort(most_probable_.begin(), most_probable_.end(), [&](std::int64_t a, std::int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  double sum = 0;
  const auto reached =
      std::find_if(most_probable_.begin(), most_probable_.end(), [&](std::int64_t n) {
        sum += sums_[static_cast<std::size_t>(n)];
        return target.reached_by(sum);
      });
  if (reached == most_probable_.end()) return false;
  const Cutoff last{logits[*reached], *reached};
  for (std::int64_t n = 0; n < size(); ++n) {
    if (!last.keeps(logits, n)) sums_[static_cast<std::size_t>(n)] = 0;
  }
  return true;
}

}  // namespace attn::detail
