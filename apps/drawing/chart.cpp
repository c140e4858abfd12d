#include "chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attn::apps {
namespace {

constexpr double small_text = 12;
constexpr double tick_length = 5;
constexpr double curve_thickness = 2.5;

std::string_view name_of(Anchor anchor) {
  return anchor == Anchor::start ? "start" : anchor == Anchor::middle ? "middle" : "end";
}

std::string dashes_of(const Ink& ink) {
  return ink.dashes.empty() ? "" : fmt::format(" stroke-dasharray=\"{}\"", ink.dashes);
}

}  // namespace

Svg::Svg(double width, double height, const std::string& title) {
  body_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 "
      "0 {0:.0f} {1:.0f}\" role=\"img\" "
      "font-family=\"Helvetica, Arial, sans-serif\" fill=\"{2}\">\n<title>{3}</title>\n<rect "
      "width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n",
      width, height, black.color, title);
}

void Svg::line(Point from, Point to, const Ink& ink, double thickness) {
  body_ += fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"{}\"{}/>\n",
      from.x, from.y, to.x, to.y, ink.color, thickness, dashes_of(ink));
}

void Svg::curve(const std::vector<Point>& points, const Ink& ink, double thickness) {
  body_ += "<polyline points=\"";
  for (const Point& point : points) body_ += fmt::format("{:.1f},{:.1f} ", point.x, point.y);
  body_.back() = '"';
  body_ += fmt::format(
      " fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{}/>\n", ink.color,
      thickness, dashes_of(ink));
}

void Svg::box(Point corner, double width, double height, const Ink& ink) {
  body_ += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\" "
      "stroke=\"{}\" stroke-width=\"0.6\"/>\n",
      corner.x, corner.y, width, height, ink.color, black.color);
}

void Svg::polygon(const std::vector<Point>& points, const Ink& ink) {
  if (points.empty()) return;
  body_ += "<polygon points=\"";
  for (const Point& point : points) body_ += fmt::format("{:.1f},{:.1f} ", point.x, point.y);
  body_.back() = '"';
  body_ += fmt::format(" fill=\"{}\"/>\n", ink.color);
}

void Svg::mark(Point at, Marker marker, const Ink& ink, const Ink& edge) {
  constexpr double size = 4;
  const std::string colors =
      fmt::format("fill=\"{}\" stroke=\"{}\" stroke-width=\"1\"", ink.color, edge.color);
  switch (marker) {
    case Marker::circle:
      body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" {}/>\n", at.x, at.y, size,
                           colors);
      break;
    case Marker::square:
      body_ +=
          fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" {}/>\n",
                      at.x - size + 0.5, at.y - size + 0.5, 2 * size - 1, 2 * size - 1, colors);
      break;
    case Marker::triangle:
      body_ +=
          fmt::format("<path d=\"M{:.1f} {:.1f}l5 8.5h-10z\" {}/>\n", at.x, at.y - 5.5, colors);
      break;
  }
}

void Svg::blank(Point corner, double width, double height) {
  body_ += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"white\"/>\n",
      corner.x, corner.y, width, height);
}

void Svg::text(Point at, const std::string& text, Anchor anchor, double size) {
  body_ +=
      fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" text-anchor=\"{}\">{}</text>\n",
                  at.x, at.y, size, name_of(anchor), text);
}

void Svg::upright_text(Point at, const std::string& text) {
  body_ += fmt::format(
      "<text font-size=\"13\" text-anchor=\"middle\" transform=\"translate({:.1f} {:.1f}) "
      "rotate(-90)\">{}</text>\n",
      at.x, at.y, text);
}

Panel::Panel(Svg& svg, const Area& area, Axis x, Axis y)
    : svg_(svg), area_(area), x_(std::move(x)), y_(std::move(y)) {
  for (const auto& [value, label] : y_.ticks) {
    const Point place = at(x_.low, value);
    svg_.line(place, at(x_.high, value), gray);
    svg_.text({place.x - 8, place.y + 4}, label, Anchor::end, small_text);
  }
  for (const auto& [value, label] : x_.ticks) {
    const Point place = at(value, y_.low);
    svg_.line(place, {place.x, place.y + tick_length}, black);
    svg_.text({place.x, place.y + 19}, label, Anchor::middle, small_text);
  }
  frame();
  svg_.text({area_.corner.x + area_.width / 2, area_.corner.y + area_.height + 40}, x_.label);
  svg_.upright_text({area_.corner.x - 42, area_.corner.y + area_.height / 2}, y_.label);
}

Point Panel::at(double x, double y) const {
  return {area_.corner.x + area_.width * (x - x_.low) / (x_.high - x_.low),
          area_.corner.y + area_.height * (y_.high - y) / (y_.high - y_.low)};
}

void Panel::title(const std::string& text) {
  svg_.text({area_.corner.x + area_.width / 2, area_.corner.y - 14}, text, Anchor::middle, 14);
}

void Panel::curve(const std::vector<Point>& values, const Ink& ink) {
  std::vector<Point> points;
  for (const Point& value : values) points.push_back(at(value.x, value.y));
  svg_.curve(points, ink, curve_thickness);
}

void Panel::polygon(const std::vector<Point>& values, const Ink& ink) {
  std::vector<Point> points;
  for (const Point& value : values) points.push_back(at(value.x, value.y));
  svg_.polygon(points, ink);
}

void Panel::box(Point from, Point to, const Ink& ink) {
  const Point a = at(from.x, from.y), b = at(to.x, to.y);
  svg_.box({std::min(a.x, b.x), std::min(a.y, b.y)}, std::abs(a.x - b.x), std::abs(a.y - b.y), ink);
}

void Panel::frame() {
  svg_.line(at(x_.low, y_.low), at(x_.high, y_.low), black);
  svg_.line(at(x_.low, y_.low), at(x_.low, y_.high), black);
}

void Panel::bar(double left, double right, double height, const Ink& ink) {
  const Point top = at(left, height), bottom = at(right, 0);
  if (height == 0)
    return svg_.text({(top.x + bottom.x) / 2, bottom.y - 3}, "0", Anchor::middle, 10);
  svg_.box(top, bottom.x - top.x, bottom.y - top.y, ink);
}

std::vector<std::pair<double, std::string>> even_ticks(double low, double high, int steps,
                                                       int decimals) {
  std::vector<std::pair<double, std::string>> ticks;
  for (int n = 0; n <= steps; ++n) {
    const double value = low + (high - low) * n / steps;
    ticks.emplace_back(value, fmt::format("{:.{}f}", value, decimals));
  }
  return ticks;
}

std::vector<std::pair<double, std::string>> round_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double step = power * (rough > 5 * power   ? 10
                               : rough > 2 * power ? 5
                               : rough > power     ? 2
                                                   : 1);
  std::vector<std::pair<double, std::string>> ticks;
  for (double n = std::ceil(low / step); n * step <= high; ++n)
    ticks.emplace_back(n * step, fmt::format("{:.6g}", n * step + 0.));
  return ticks;
}

void draw_legend(Svg& svg, Point corner, Sample sample,
                 const std::vector<std::pair<Ink, std::string>>& entries) {
  constexpr double sample_width = 26, sample_height = 12, line_height = 22, width = 120;
  svg.blank(corner, width, line_height * static_cast<double>(entries.size()));
  Point middle{corner.x + 4, corner.y + line_height / 2};
  for (const auto& [ink, text] : entries) {
    if (sample == Sample::bar) {
      svg.box({middle.x, middle.y - sample_height / 2}, sample_width, sample_height, ink);
    } else {
      svg.line(middle, {middle.x + sample_width, middle.y}, ink, curve_thickness);
    }
    svg.text({middle.x + sample_width + 8, middle.y + 5}, text, Anchor::start);
    middle.y += line_height;
  }
}

}  // namespace attn::apps
