// The key to a heat map's colors.
#pragma once

#include <span>

#include "canvas.hpp"
#include "colors.hpp"
#include "weight_map.hpp"

namespace attn::apps::demo {

/// Of a bar beside something so high.
int color_bar_height(int beside);

/// A bar with numbers, and below it what has a color of its own: hidden keys, NaN.
class ColorBar {
 public:
  /// What no map has is left out.
  ColorBar(const ColorScale& scale, int bar_height, std::span<const WeightMap> maps);

  int width() const;
  int height() const;
  void draw(Canvas& canvas, int left, int top) const;

 private:
  const ColorScale& scale_;
  int bar_height_;
  bool hidden_ = false, nan_ = false;
};

}  // namespace attn::apps::demo
