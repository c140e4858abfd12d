// Entmax as it is derived on paper, in long double. It sorts all elements and shares no code with
// the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

namespace attn::test {

struct PlainEntmax {
  std::vector<long double> y;
  long double tau = 0;
  /// How far each element lies above the threshold, (alpha - 1) x_i - tau; negative below. Empty
  /// for alpha = 1.
  std::vector<long double> above;
};

using LongDoubles = std::vector<long double>;

inline PlainEntmax plain_softmax(const LongDoubles& x) {
  const long double maximum = *std::max_element(x.begin(), x.end());
  PlainEntmax result;
  long double sum = 0;
  for (const long double value : x) sum += std::exp(value - maximum);
  for (const long double value : x) result.y.push_back(std::exp(value - maximum) / sum);
  result.tau = maximum + std::log(sum);
  return result;
}

/// z is sorted in descending order. Martins and Astudillo 2016, algorithm 1.
inline long double plain_tau_of_sparsemax(const LongDoubles& z) {
  long double sum = 0, tau = 0;
  for (std::size_t k = 0; k < z.size(); ++k) {
    sum += z[k];
    const auto number = static_cast<long double>(k + 1);
    if (1 + number * z[k] > sum) tau = (sum - 1) / number;
  }
  return tau;
}

/// z is sorted in descending order, and its first elements are the support. For a support of k
/// elements, sum (z - tau)^2 = 1 gives tau = mean - sqrt(1/k - variance).
inline long double plain_tau_of_entmax15(const LongDoubles& z) {
  long double sum = 0, squares = 0, tau = z[0] - 1;
  for (std::size_t k = 0; k < z.size(); ++k) {
    sum += z[k];
    squares += z[k] * z[k];
    const auto number = static_cast<long double>(k + 1);
    const long double mean = sum / number, rest = 1 / number - (squares / number - mean * mean);
    if (rest >= 0 && mean - std::sqrt(rest) <= z[k]) tau = mean - std::sqrt(rest);
  }
  return tau;
}

/// z is sorted in descending order. The support are the elements for which the sum is below 1 if
/// they are taken as threshold. Bisection then finds the logarithm of the distance between the last
/// of them and the threshold: for large alpha that distance may be far below the precision of the
/// threshold.
inline long double plain_tau_by_halving(const LongDoubles& z, long double power, std::size_t& last,
                                        long double& below_last) {
  const auto sum_at = [&](std::size_t k, long double below) {
    long double sum = 0;
    for (std::size_t n = 0; n <= k; ++n) sum += std::pow((z[n] - z[k]) + below, power);
    return sum;
  };
  std::size_t end = z.size();
  for (last = 0; end - last > 1;) {
    const std::size_t middle = last + (end - last) / 2;
    (sum_at(middle, 0) < 1 ? last : end) = middle;
  }
  long double low = -11000, high = 0;  // logarithms
  for (int n = 0; n < 90; ++n) {
    const long double middle = (low + high) / 2;
    (sum_at(last, std::exp(middle)) < 1 ? low : high) = middle;
  }
  below_last = std::exp((low + high) / 2);
  return z[last] - below_last;
}

/// x has a finite maximum. alpha >= 1.
inline PlainEntmax plain_entmax(const LongDoubles& x, long double alpha) {
  if (alpha == 1) return plain_softmax(x);
  const long double maximum = *std::max_element(x.begin(), x.end());
  LongDoubles z;
  for (const long double value : x) z.push_back((alpha - 1) * (value - maximum));
  LongDoubles sorted = z;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  std::size_t last = 0;
  long double tau = 0, below_last = 0;
  const bool halving = alpha != 2 && alpha != 1.5L;
  if (halving) {
    tau = plain_tau_by_halving(sorted, 1 / (alpha - 1), last, below_last);
  } else {
    tau = alpha == 2 ? plain_tau_of_sparsemax(sorted) : plain_tau_of_entmax15(sorted);
  }
  PlainEntmax result;
  result.tau = tau + (alpha - 1) * maximum;
  for (const long double value : z) {
    result.above.push_back(halving ? (value - sorted[last]) + below_last : value - tau);
    const bool in = halving ? value >= sorted[last] : value > tau;
    result.y.push_back(in ? std::pow(result.above.back(), 1 / (alpha - 1)) : 0);
  }
  return result;
}

}  // namespace attn::test
