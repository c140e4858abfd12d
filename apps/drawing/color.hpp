// Colors, and a color map for numbers.
#pragma once

#include <cstdint>

namespace attn::apps {

struct Color {
  std::uint8_t red = 0, green = 0, blue = 0;
  friend bool operator==(const Color&, const Color&) = default;
};

/// The color map at t in 0..1: from dark violet through blue and green to pale yellow. Perceived
/// lightness is linear in t, so that equal differences look equal, and the map works in gray too.
Color map_color(double t);

/// White on dark colors, black on bright ones.
Color text_color_on(Color color);

}  // namespace attn::apps
