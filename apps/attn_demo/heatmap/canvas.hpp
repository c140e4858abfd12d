// Pixels, and the few shapes that a heat map is made of.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "colors.hpp"

namespace attn::apps::demo {

inline constexpr Color white{255, 255, 255}, ink{34, 34, 42}, faint_ink{120, 124, 136};

/// In pixels, the corner is the upper left one.
struct Box {
  int left, top, width, height;
};

/// Letters are whole multiples of the font's pixels.
struct Lettering {
  int scale = 2;
  Color color = ink;
};
int text_width(std::string_view text, int scale);
/// Of what stands on the line and hangs below it.
int text_height(int scale);

/// Shapes may reach over the edges; what lies outside is not drawn.
class Canvas {
 public:
  Canvas(int width, int height);

  int width() const { return width_; }
  int height() const { return height_; }
  Color at(int x, int y) const {
    return pixels_[static_cast<std::size_t>(y) * static_cast<std::size_t>(width_) +
                   static_cast<std::size_t>(x)];
  }
  const std::vector<Color>& pixels() const { return pixels_; }

  void fill(const Box& box, Color color);
  /// Grey-blue with diagonal lines, which run on through neighboring boxes.
  void hatch(const Box& box);
  /// One pixel wide, around the box.
  void frame(const Box& box, Color color);
  /// The upper left corner of the letters is at left, top.
  void text(int left, int top, std::string_view words, const Lettering& lettering = {});
  /// From below to above: the lower left corner of the page, as one reads it, is at left, bottom
  /// - 1.
  void upright_text(int left, int bottom, std::string_view words, const Lettering& lettering = {});

 private:
  int width_, height_;
  std::vector<Color> pixels_;
};

}  // namespace attn::apps::demo
