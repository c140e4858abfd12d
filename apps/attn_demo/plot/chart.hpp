// Charts as SVG: shapes and words on a white page, and panels with axes to put them in.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn::apps::demo {

/// In pixels, from the upper left corner.
struct Point {
  double x, y;
};

/// A color as SVG writes it, and how a line of it is dashed ("" is solid), so that series differ
/// without color too.
struct Ink {
  std::string_view color;
  std::string_view dashes = "";
};
inline constexpr Ink black{"#222222"};
inline constexpr Ink gray{"#dddddd"};

enum class Anchor { start, middle, end };

class Svg {
 public:
  Svg(double width, double height, const std::string& title);

  void line(Point from, Point to, const Ink& ink, double thickness = 1);
  void curve(const std::vector<Point>& points, const Ink& ink, double thickness);
  /// Filled, with a thin dark edge that shows pale colors on white.
  void box(Point corner, double width, double height, const Ink& ink);
  /// Covers what is there.
  void blank(Point corner, double width, double height);
  void text(Point at, const std::string& words, Anchor anchor = Anchor::middle, double size = 13);
  /// From below to above.
  void upright_text(Point at, const std::string& words);
  std::string finish() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

/// One axis: what lies at its ends, and where it is marked.
struct Axis {
  std::string label;
  double low, high;
  std::vector<std::pair<double, std::string>> ticks;
};

/// A part of the page with a horizontal and a vertical axis.
class Panel {
 public:
  /// Draws the axes, and a pale line across at each of y's ticks.
  Panel(Svg& svg, Point corner, double width, double height, Axis x, Axis y);

  Point at(double x, double y) const;
  void title(const std::string& words);
  /// From the points' values.
  void curve(const std::vector<Point>& values, const Ink& ink);
  /// From 0 up; `left` and `right` are on the x axis.
  void bar(double left, double right, double height, const Ink& ink);

 private:
  Svg& svg_;
  Point corner_;
  double width_, height_;
  Axis x_, y_;
};

/// Steps from low to high, labeled with so many decimals.
std::vector<std::pair<double, std::string>> even_ticks(double low, double high, int steps,
                                                       int decimals);

/// Samples of inks and their meanings, one below the other. `corner` is the upper left one.
enum class Sample { bar, curve };
void draw_legend(Svg& svg, Point corner, Sample sample,
                 const std::vector<std::pair<Ink, std::string>>& entries);

}  // namespace attn::apps::demo
