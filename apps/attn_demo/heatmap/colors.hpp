// The colors that stand for probabilities.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "apps/drawing/color.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

// Hidden keys have a color that is not on the color map: a pale gray-blue with a hatch over it.
inline constexpr Color hidden_color{224, 228, 236}, hatch_color{176, 185, 202};
inline constexpr Color nan_color{230, 0, 126};

enum class ScaleKind { linear, logarithmic };

/// Maps probabilities to the color map.
class ColorScale {
 public:
  /// A linear scale reaches from 0 to the largest visible probability. A logarithmic one begins at
  /// the smallest that is not 0, but at no less than a millionth of the largest.
  ColorScale(ScaleKind kind, std::span<const ProbabilityMap> maps);

  /// The position of a probability on the color map, in 0..1. NaN stays NaN.
  double position(float probability) const;
  Color color(float probability) const;
  bool is_logarithmic() const { return kind_ == ScaleKind::logarithmic; }
  /// Positions on a color bar and the numbers beside them, from low to high.
  std::vector<std::pair<double, std::string>> ticks() const;

 private:
  ScaleKind kind_;
  double low_ = 0, high_ = 1;
};

}  // namespace attn::apps::demo
