// The formulas of softmax, log_softmax and logsumexp in double, and how far results may be off.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/random.hpp"

namespace attn::test {

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double eps = 0x1p-24;  // the largest relative error of rounding to f32

using Values = std::vector<double>;

struct Exact {
  Values softmax, log_softmax;
  double logsumexp;
};

/// The formulas applied to one slice.
inline Exact exact_of(const Values& x, double temperature) {
  double greatest = -infinity, sum = 0;
  for (const double value : x) greatest = std::max(greatest, value);
  if (greatest == -infinity &&
      std::none_of(x.begin(), x.end(), [](double value) { return std::isnan(value); })) {
    return {Values(x.size(), 0), Values(x.size(), -infinity), -infinity};
  }
  for (const double value : x) sum += std::exp((value - greatest) / temperature);
  Exact exact{{}, {}, greatest / temperature + std::log(sum)};
  for (const double value : x) {
    exact.softmax.push_back(std::exp((value - greatest) / temperature) / sum);
    exact.log_softmax.push_back((value - greatest) / temperature - std::log(sum));
  }
  return exact;
}

/// The bounds that softmax.hpp gives for all instruction sets. softmax: the exponential has an
/// error of at most 0.7 ulp (0.99 on the baseline), the sum the same where one element makes most
/// of it, and the quotient is rounded once more. log_softmax: two roundings (three on the
/// baseline), of which the first is that of a difference as large as the result, or of parts of
/// 2^-24 of it; and the error of the sum.
inline constexpr double promised = 2e-7;

inline bool same_kind(double got, double wanted) {
  return std::isfinite(wanted)
             ? std::isfinite(got)
             : std::bit_cast<std::int64_t>(got) == std::bit_cast<std::int64_t>(wanted) ||
                   (std::isnan(got) && std::isnan(wanted));
}

inline std::string wrong_softmax(const Values& got, const Values& wanted, double tolerance,
                                 double least = 1e-36) {
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    // Results below 1e-30 may have subnormal intermediate values.
    const double allowed = wanted[n] > 1e-30 ? std::max(tolerance * wanted[n], least) : least;
    if (!same_kind(got[n], wanted[n]) || std::abs(got[n] - wanted[n]) > allowed) {
      return fmt::format("element {}: {:.9g}, exactly {:.17g}, off by {:.3g} of it", n, got[n],
                         wanted[n], std::abs(got[n] - wanted[n]) / wanted[n]);
    }
  }
  return "";
}

inline std::string wrong_log(const Values& got, const Values& wanted, double tolerance) {
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    if (static_cast<float>(wanted[n]) == static_cast<float>(got[n]))
      continue;  // infinities, and values that become infinite in f32
    if (std::isnan(wanted[n]) && std::isnan(got[n])) continue;
    if (!(std::abs(got[n] - wanted[n]) <= tolerance * std::max(1., std::abs(wanted[n])))) {
      return fmt::format("element {}: {:.9g}, exactly {:.17g}", n, got[n], wanted[n]);
    }
  }
  return "";
}

inline Values as_values(const std::vector<float>& floats) {
  return Values(floats.begin(), floats.end());
}

inline std::vector<float> normal_floats(std::int64_t count, double mean, double deviation,
                                        std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values;
  for (std::int64_t n = 0; n < count; ++n)
    values.push_back(static_cast<float>(mean + deviation * random.normal()));
  return values;
}

inline Values normal_values(std::int64_t count, std::uint64_t seed) {
  const std::vector<float> floats = normal_floats(count, 0, 1, seed);
  return as_values(floats);
}

}  // namespace attn::test
