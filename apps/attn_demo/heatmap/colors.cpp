#include "colors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attn::apps::demo {
namespace {

/// The least 1, 2 or 5 times a power of ten of which at most `steps` fit into the range.
double round_step(double range, double steps) {
  const double power = std::pow(10, std::floor(std::log10(range / steps)));
  for (const double factor : {1., 2., 5.}) {
    if (factor * power * steps >= range * (1 - 1e-6)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

ColorScale::ColorScale(ScaleKind kind, std::span<const ProbabilityMap> maps) : kind_(kind) {
  double largest = 0, smallest = HUGE_VAL;
  for (const ProbabilityMap& map : maps) {
    for (std::size_t n = 0; n < map.grid.probabilities.size(); ++n) {
      const auto probability = static_cast<double>(map.grid.probabilities[n]);
      if (map.grid.hidden[n] != 0 || !(probability > 0)) continue;
      largest = std::max(largest, probability);
      smallest = std::min(smallest, probability);
    }
  }
  if (largest > 0) high_ = largest;
  if (kind == ScaleKind::linear) return;
  constexpr double deepest = 1e-6, shallowest = 0.1;  // of the largest
  low_ = std::clamp(smallest, deepest * high_, shallowest * high_);
}

double ColorScale::position(float probability) const {
  const auto value = static_cast<double>(probability);
  if (std::isnan(value)) return value;
  if (kind_ == ScaleKind::linear) return std::clamp(value / high_, 0., 1.);
  return value <= low_ ? 0 : std::min(1., std::log(value / low_) / std::log(high_ / low_));
}

Color ColorScale::color(float probability) const {
  return std::isnan(probability) ? nan_color : map_color(position(probability));
}

std::vector<std::pair<double, std::string>> ColorScale::ticks() const {
  std::vector<std::pair<double, std::string>> result;
  constexpr double tight = 0.06;  // nearer to an end, a number would touch that of the end
  if (kind_ == ScaleKind::linear) {
    const double step = round_step(high_, 5);
    for (int n = 0; step * n < high_ * (1 - tight); ++n)
      result.emplace_back(step * n / high_, fmt::format("{:.4g}", step * n));
  } else {
    result.emplace_back(0, fmt::format("<= {:.2g}", low_));
    const double range = std::log10(high_ / low_);
    for (double power = std::ceil(std::log10(low_)); power < std::log10(high_); ++power) {
      const double place = (power - std::log10(low_)) / range;
      if (place > tight && place < 1 - tight)
        result.emplace_back(place, fmt::format("{:g}", std::pow(10, power)));
    }
  }
  result.emplace_back(1, fmt::format("{:.3g}", high_));
  return result;
}

}  // namespace attn::apps::demo
