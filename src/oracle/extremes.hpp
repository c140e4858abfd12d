// The least and the greatest score of a row, for the unfused baseline.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace attn::detail {

struct Extremes {
  float min = std::numeric_limits<float>::infinity();
  float max = -std::numeric_limits<float>::infinity();  // NaN if there is one
};

/// Keeps one running extreme for each of several lanes, because the compiler vectorizes lanes, but
/// not the order of a single running maximum.
inline Extremes extremes(const float* values, std::int64_t count) {
  constexpr std::int64_t lanes = 16;
  float low[lanes], high[lanes];
  std::int32_t nans[lanes] = {};
  std::fill_n(low, lanes, Extremes{}.min);
  std::fill_n(high, lanes, Extremes{}.max);
  const auto take = [&](std::int64_t lane, float value) {
    low[lane] = value < low[lane] ? value : low[lane];
    high[lane] = value > high[lane] ? value : high[lane];
    nans[lane] |= value != value;
  };
  std::int64_t n = 0;
  for (; n + lanes <= count; n += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) take(lane, values[n + lane]);
  }
  for (; n < count; ++n) take(0, values[n]);
  if (std::any_of(nans, nans + lanes, [](std::int32_t seen) { return seen != 0; }))
    return {Extremes{}.max, std::nanf("")};
  return {*std::min_element(low, low + lanes), *std::max_element(high, high + lanes)};
}

}  // namespace attn::detail
