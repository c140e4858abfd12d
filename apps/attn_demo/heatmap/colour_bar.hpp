// The key to a heat map's colours.
#pragma once

#include <span>

#include "canvas.hpp"
#include "colours.hpp"
#include "weight_map.hpp"

namespace attn::demo {

/// Of a bar beside something so high.
int colour_bar_height(int beside);

/// A bar with numbers, and below it what has a colour of its own: hidden keys, NaN.
class ColourBar {
 public:
  /// What no map has is left out.
  ColourBar(const ColourScale& scale, int bar_height, std::span<const WeightMap> maps);

  int width() const;
  int height() const;
  void draw(Canvas& canvas, int left, int top) const;

 private:
  const ColourScale& scale_;
  int bar_height_;
  bool hidden_ = false, nan_ = false;
};

}  // namespace attn::demo
