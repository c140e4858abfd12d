// Charts as SVG: shapes and text on a white page, and panels with axes.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn::apps {

/// A position in pixels, from the upper left corner of the page.
struct Point {
  double x, y;
};

/// A color in SVG's notation, and the dash pattern of its lines ("" is solid). The patterns make
/// series differ without color too.
struct Ink {
  std::string_view color;
  std::string_view dashes{};
};
inline constexpr Ink black{"#222222"};
inline constexpr Ink gray{"#dddddd"};

enum class Anchor { start, middle, end };

class Svg {
 public:
  Svg(double width, double height, const std::string& title);

  void line(Point from, Point to, const Ink& ink, double thickness = 1);
  void curve(const std::vector<Point>& points, const Ink& ink, double thickness);
  /// Draws a filled rectangle with a thin dark edge, which makes pale colors visible on white.
  void box(Point corner, double width, double height, const Ink& ink);
  /// Fills a polygon, without an edge.
  void polygon(const std::vector<Point>& points, const Ink& ink);
  /// Draws a small circle, square or triangle with a thin edge.
  enum class Marker { circle, square, triangle };
  void mark(Point at, Marker marker, const Ink& ink, const Ink& edge = black);
  /// Draws a white rectangle over what is there.
  void blank(Point corner, double width, double height);
  void text(Point at, const std::string& text, Anchor anchor = Anchor::middle, double size = 13);
  /// Draws text that reads from bottom to top.
  void upright_text(Point at, const std::string& text);
  std::string finish() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

/// One axis: its label, the values at its ends, and its ticks.
struct Axis {
  std::string label;
  double low, high;
  std::vector<std::pair<double, std::string>> ticks;
};

/// A rectangle of the page. `corner` is the upper left one.
struct Area {
  Point corner;
  double width, height;
};

/// A part of the page with a horizontal and a vertical axis.
class Panel {
 public:
  /// Draws the axes, and a pale line across at each of y's ticks.
  Panel(Svg& svg, const Area& area, Axis x, Axis y);

  Point at(double x, double y) const;
  const Axis& x() const { return x_; }
  const Axis& y() const { return y_; }
  void title(const std::string& text);
  /// Draws a curve through points, given as values on the axes.
  void curve(const std::vector<Point>& values, const Ink& ink);
  void polygon(const std::vector<Point>& values, const Ink& ink);
  /// Draws a box between two corners.
  void box(Point from, Point to, const Ink& ink);
  /// Draws the lines of the axes again, over what covers them.
  void frame();
  /// Draws a bar from 0 upwards; `left` and `right` are values on the x axis.
  void bar(double left, double right, double height, const Ink& ink);

 private:
  Svg& svg_;
  Area area_;
  Axis x_, y_;
};

/// Ticks at equal steps from low to high; their labels have so many decimals.
std::vector<std::pair<double, std::string>> even_ticks(double low, double high, int steps,
                                                       int decimals);

/// Ticks at multiples of 1, 2 or 5 times a power of ten, about `count` of them.
std::vector<std::pair<double, std::string>> round_ticks(double low, double high, int count);

/// Draws samples of inks with their meanings, one below the other. `corner` is the upper left one.
enum class Sample { bar, curve };
void draw_legend(Svg& svg, Point corner, Sample sample,
                 const std::vector<std::pair<Ink, std::string>>& entries);

}  // namespace attn::apps
