#include "attention/textbook_weights.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace attn::detail {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

using Values = std::vector<double>;

/// NaN if there is one.
double maximum(const Values& scores) {
  double greatest = -infinity;
  for (const double score : scores) {
    if (score > greatest || std::isnan(score)) greatest = score;
  }
  return greatest;
}

/// Where there is no key to weigh, the sink is the whole denominator.
double softmax(double sink, Values& scores) {
  const double key_max = maximum(scores);
  if (key_max == -infinity) {
    std::fill(scores.begin(), scores.end(), 0.0);
    return sink;
  }
  const double row_max = std::max(key_max, sink);
  double sum = std::exp(sink - row_max);
  for (double& score : scores) {
    score = score == -infinity ? 0 : std::exp(score - row_max);
    sum += score;
  }
  for (double& weight : scores) weight /= sum;
  return row_max + std::log(sum);
}

void sigmoid(double bias, Values& scores) {
  for (double& score : scores) score = 1 / (1 + std::exp(-(score + bias)));
}

/// Sorted, the support is a first part of the scores: the longest whose last member is above the
/// tau that the part alone would have.
double sparsemax_threshold(Values scores) {
  std::sort(scores.begin(), scores.end(), std::greater<>());
  double sum = 0, tau = 0;
  for (std::size_t k = 0; k < scores.size(); ++k) {
    sum += scores[k];
    const double tau_here = (sum - 1) / static_cast<double>(k + 1);
    if (scores[k] <= tau_here) break;
    tau = tau_here;
  }
  return tau;
}

/// The sum of the weights falls from at least 1 at tau = -1 to 0 at the greatest score, 0. Halves
/// the interval until no number is left in it.
template <class Weight>
double threshold(const Values& scores, Weight weight) {
  Values candidates;
  std::copy_if(scores.begin(), scores.end(), std::back_inserter(candidates),
               [](double score) { return score > -1; });
  double low = -1, high = 0;
  for (;;) {
    const double tau = low + (high - low) / 2;
    if (tau <= low || tau >= high) return low;
    const auto weigh = [&](double score) { return weight(score - tau); };
    const double sum =
        std::transform_reduce(candidates.begin(), candidates.end(), 0.0, std::plus<>(), weigh);
    (sum >= 1 ? low : high) = tau;
  }
}

/// Where alpha > 2 the power is infinitely steep at the threshold, and the last bit of tau may be
/// worth a hundredth: the least of the weights is what the others leave of 1.
void leave_rest(Values& weights) {
  double least = infinity;
  for (const double weight : weights) least = weight > 0 ? std::min(least, weight) : least;
  const auto last = static_cast<double>(std::count(weights.begin(), weights.end(), least));
  const double others = std::accumulate(weights.begin(), weights.end(), 0.0) - last * least;
  std::replace(weights.begin(), weights.end(), least, std::max(0.0, (1 - others) / last));
}

/// max(z - tau, 0)^(1 / (alpha - 1)) for z = (alpha - 1) s, after the greatest z has been made 0.
void entmax(double alpha, Values& scores) {
  const double greatest = maximum(scores);
  if (greatest == -infinity) return std::fill(scores.begin(), scores.end(), 0.0);
  for (double& score : scores)
    score = score == -infinity ? -infinity : (alpha - 1) * (score - greatest);
  if (!std::isfinite(greatest)) {
    for (double& score : scores) score = score == -infinity ? 0 : nan;
    return;
  }
  const auto weight = [alpha](double above) {
    if (above <= 0) return 0.0;
    return alpha == 2 ? above : alpha == 1.5 ? above * above : std::pow(above, 1 / (alpha - 1));
  };
  const double tau = alpha == 2 ? sparsemax_threshold(scores) : threshold(scores, weight);
  for (double& score : scores) score = weight(score - tau);
  if (alpha > 2) return leave_rest(scores);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& score : scores) score /= sum;
}

/// The sink is one more score that has no value.
void entmax(double alpha, double sink, Values& scores) {
  if (sink == -infinity || maximum(scores) == -infinity) return entmax(alpha, scores);
  scores.push_back(sink);
  entmax(alpha, scores);
  scores.pop_back();
}

}  // namespace

double weigh(const Normalizer& normalizer, double sink, std::int64_t kv_len,
             std::vector<double>& scores) {
  switch (normalizer.kind()) {
    case Normalizer::Kind::softmax: return softmax(sink, scores);
    case Normalizer::Kind::sigmoid: {
      const auto bias = normalizer.bias();
      sigmoid(bias ? static_cast<double>(*bias) : -std::log(static_cast<double>(kv_len)), scores);
      return nan;
    }
    case Normalizer::Kind::entmax: entmax(normalizer.alpha(), sink, scores); return nan;
  }
  return nan;
}

}  // namespace attn::detail
