#include "oracle/probabilities.hpp"

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

/// Returns NaN if any score is NaN.
double maximum(const Values& scores) {
  double greatest = -infinity;
  for (const double score : scores) {
    if (score > greatest || std::isnan(score)) greatest = score;
  }
  return greatest;
}

/// Returns lse. In a row without a visible key, the sink alone is the denominator.
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
  for (double& score : scores) score /= sum;
  return row_max + std::log(sum);
}

void sigmoid(double bias, Values& scores) {
  for (double& score : scores) score = 1 / (1 + std::exp(-(score + bias)));
}

/// Martins and Astudillo 2016, algorithm 1. Of the scores in descending order, the support is the
/// longest prefix whose last score is above the tau of that prefix alone.
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

/// Finds tau by bisection. The greatest score is 0. The sum of the probabilities falls from at
/// least 1 at tau = -1 to 0 at tau = 0. The loop ends when no double is left inside the interval.
template <class Power>
double threshold(const Values& scores, Power power) {
  Values candidates;
  std::copy_if(scores.begin(), scores.end(), std::back_inserter(candidates),
               [](double score) { return score > -1; });
  double low = -1, high = 0;
  for (;;) {
    const double tau = low + (high - low) / 2;
    if (tau <= low || tau >= high) return low;
    const auto probability = [&](double score) { return power(score - tau); };
    const double sum = std::transform_reduce(candidates.begin(), candidates.end(), 0.0,
                                             std::plus<>(), probability);
    (sum >= 1 ? low : high) = tau;
  }
}

/// For alpha > 2 the power is infinitely steep at the threshold, and the last bit of tau may change
/// a probability by a hundredth. Therefore the least of the probabilities is set to what the others
/// leave of 1.
void set_least_to_remainder(Values& probabilities) {
  double least = infinity;
  for (const double p : probabilities) least = p > 0 ? std::min(least, p) : least;
  const auto last =
      static_cast<double>(std::count(probabilities.begin(), probabilities.end(), least));
  const double others =
      std::accumulate(probabilities.begin(), probabilities.end(), 0.0) - last * least;
  std::replace(probabilities.begin(), probabilities.end(), least,
               std::max(0.0, (1 - others) / last));
}

/// max(z - tau, 0)^(1 / (alpha - 1)) with z = (alpha - 1) (s - max s).
void entmax(double alpha, Values& scores) {
  const double greatest = maximum(scores);
  if (greatest == -infinity) return std::fill(scores.begin(), scores.end(), 0.0);
  if (!std::isfinite(greatest)) {
    for (double& score : scores) score = score == -infinity ? 0 : nan;
    return;
  }
  for (double& score : scores)
    score = score == -infinity ? -infinity : (alpha - 1) * (score - greatest);
  const auto power = [alpha](double above) {
    if (above <= 0) return 0.0;
    return alpha == 2 ? above : alpha == 1.5 ? above * above : std::pow(above, 1 / (alpha - 1));
  };
  const double tau = alpha == 2 ? sparsemax_threshold(scores) : threshold(scores, power);
  for (double& score : scores) score = power(score - tau);
  if (alpha > 2) return set_least_to_remainder(scores);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& score : scores) score /= sum;
}

/// The sink is one more score, which has no value.
void entmax(double alpha, double sink, Values& scores) {
  if (sink == -infinity || maximum(scores) == -infinity) return entmax(alpha, scores);
  scores.push_back(sink);
  entmax(alpha, scores);
  scores.pop_back();
}

}  // namespace

double probabilities_of_scores(const Normalizer& normalizer, double sink, std::int64_t kv_len,
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

std::vector<double> score_gradients(const Normalizer& normalizer,
                                    const std::vector<double>& probabilities,
                                    const std::vector<double>& dprobabilities, double dlse) {
  const Values &p = probabilities, &dp = dprobabilities;
  Values ds(p.size());
  const auto set_each = [&](auto gradient) {
    for (std::size_t j = 0; j < p.size(); ++j) ds[j] = gradient(p[j], dp[j]);
  };
  switch (normalizer.kind()) {
    case Normalizer::Kind::softmax: {
      const double delta = std::transform_reduce(p.begin(), p.end(), dp.begin(), 0.0);
      set_each([&](double pj, double dpj) { return pj * (dpj - delta + dlse); });
      return ds;
    }
    case Normalizer::Kind::sigmoid:
      set_each([](double pj, double dpj) { return pj * (1 - pj) * dpj; });
      return ds;
    case Normalizer::Kind::entmax: {
      const double exponent = 2 - double{normalizer.alpha()};
      const auto g = [&](double pj) { return pj > 0 ? std::pow(pj, exponent) : pj; };
      double sum = 0, weighted = 0;
      for (std::size_t j = 0; j < p.size(); ++j) {
        sum += g(p[j]);
        weighted += g(p[j]) * dp[j];
      }
      set_each([&](double pj, double dpj) { return g(pj) * (dpj - weighted / sum); });
      return ds;
    }
  }
  return ds;
}

}  // namespace attn::detail
