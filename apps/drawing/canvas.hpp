// An image in memory, a few shapes to draw in it, and its PNG file.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "color.hpp"

namespace attn::apps {

inline constexpr Color white{255, 255, 255}, ink{34, 34, 42}, faint_ink{120, 124, 136};

/// A rectangle in pixels; left, top is its upper left corner.
struct Box {
  int left, top, width, height;
};

/// How text is drawn: each pixel of the font becomes scale x scale pixels.
struct Lettering {
  int scale = 2;
  Color color = ink;
};
int text_width(std::string_view text, int scale);
/// The height of a line of text, descenders included.
int text_height(int scale);

/// Shapes may extend beyond the edges; only the part inside is drawn.
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
  /// Fills the box and draws diagonal lines over it, which continue in neighboring boxes.
  void hatch(const Box& box, Color ground, Color lines);
  /// Draws a border of one pixel around the box.
  void frame(const Box& box, Color color);
  /// Draws text whose upper left corner is at left, top.
  void text(int left, int top, std::string_view text, const Lettering& lettering = {});
  /// Draws text that is rotated by 90 degrees and reads from bottom to top. Its first letter ends
  /// at row bottom - 1.
  void upright_text(int left, int bottom, std::string_view text, const Lettering& lettering = {});

 private:
  int width_, height_;
  std::vector<Color> pixels_;
};

/// The bytes of a PNG file. The same pixels give the same bytes with the same libpng and zlib.
/// Throws Error if libpng fails.
std::string png_bytes(const Canvas& canvas);

}  // namespace attn::apps
