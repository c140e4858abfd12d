// From weights to colors.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weight_map.hpp"

namespace attn::apps::demo {

struct Color {
  std::uint8_t red = 0, green = 0, blue = 0;
  friend bool operator==(const Color&, const Color&) = default;
};

// What is hidden has no place on the color map: gray-blue, paler than anything there that is as
// dull, with a hatch over it.
inline constexpr Color hidden_color{224, 228, 236}, hatch_color{176, 185, 202};
inline constexpr Color nan_color{230, 0, 126};

/// The color map at t in 0..1, from dark violet by blue and green to pale yellow. Lightness, as
/// people see it, grows in step with t, so that equal differences look equal, and the map also
/// reads in gray.
Color map_color(double t);

/// White on dark colors, black on bright ones.
Color text_color_on(Color color);

enum class ScaleKind { linear, logarithmic };

/// Which weights the ends of the color map stand for.
class ColorScale {
 public:
  /// From 0 to the largest visible weight; a logarithmic one begins at the smallest that is not 0,
  /// or at a millionth of the largest.
  ColorScale(ScaleKind kind, std::span<const WeightMap> maps);

  /// Where a weight lies on the color map, 0..1. NaN stays NaN.
  double position(float weight) const;
  Color color(float weight) const;
  bool is_logarithmic() const { return kind_ == ScaleKind::logarithmic; }
  /// Positions and numbers to write beside a color bar, from low to high.
  std::vector<std::pair<double, std::string>> ticks() const;

 private:
  ScaleKind kind_;
  double low_ = 0, high_ = 1;
};

}  // namespace attn::apps::demo
