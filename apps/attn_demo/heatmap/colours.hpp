// From weights to colours.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weight_map.hpp"

namespace attn::demo {

struct Colour {
  std::uint8_t red = 0, green = 0, blue = 0;
  friend bool operator==(const Colour&, const Colour&) = default;
};

// What is hidden has no place on the colour map: grey-blue, paler than anything there that is as
// dull, with a hatch over it.
inline constexpr Colour hidden_colour{224, 228, 236}, hatch_colour{176, 185, 202};
inline constexpr Colour nan_colour{230, 0, 126};

/// The colour map at t in 0..1, from dark violet by blue and green to pale yellow. Lightness, as
/// people see it, grows in step with t, so that equal differences look equal, and the map also
/// reads in grey.
Colour map_colour(double t);

/// White on dark colours, black on bright ones.
Colour text_colour_on(Colour colour);

enum class ScaleKind { linear, logarithmic };

/// Which weights the ends of the colour map stand for.
class ColourScale {
 public:
  /// From 0 to the largest visible weight; a logarithmic one begins at the smallest that is not 0,
  /// or at a millionth of the largest.
  ColourScale(ScaleKind kind, std::span<const WeightMap> maps);

  /// Where a weight lies on the colour map, 0..1. NaN stays NaN.
  double position(float weight) const;
  Colour colour(float weight) const;
  bool is_logarithmic() const { return kind_ == ScaleKind::logarithmic; }
  /// Positions and numbers to write beside a colour bar, from low to high.
  std::vector<std::pair<double, std::string>> ticks() const;

 private:
  ScaleKind kind_;
  double low_ = 0, high_ = 1;
};

}  // namespace attn::demo
