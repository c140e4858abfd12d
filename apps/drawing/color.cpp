#include "color.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace attn::apps {
namespace {

/// A hue in Oklab, a color space that is perceptually uniform (Ottosson, 2020). Its lightness is
/// computed from t.
struct Hue {
  double a, b;
};
/// Evenly spaced on the color map.
constexpr std::array<Hue, 6> hues = {{{0.075, -0.100},
                                      {0.012, -0.128},
                                      {-0.058, -0.078},
                                      {-0.112, 0.012},
                                      {-0.108, 0.118},
                                      {-0.040, 0.165}}};
constexpr double darkest = 0.23, brightest = 0.93;

std::uint8_t srgb_byte(double linear) {
  const double light = std::clamp(linear, 0., 1.);
  const double encoded =
      light <= 0.0031308 ? 12.92 * light : 1.055 * std::pow(light, 1 / 2.4) - 0.055;
  return static_cast<std::uint8_t>(std::lround(255 * encoded));
}

Color from_oklab(double lightness, Hue hue) {
  const auto cube = [](double x) { return x * x * x; };
  const double l = cube(lightness + 0.3963377774 * hue.a + 0.2158037573 * hue.b);
  const double m = cube(lightness - 0.1055613458 * hue.a - 0.0638541728 * hue.b);
  const double s = cube(lightness - 0.0894841775 * hue.a - 1.2914855480 * hue.b);
  return {srgb_byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
          srgb_byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
          srgb_byte(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

}  // namespace

Color map_color(double t) {
  const double place = std::clamp(t, 0., 1.) * static_cast<double>(hues.size() - 1);
  const auto segment = std::min(static_cast<std::size_t>(place), hues.size() - 2);
  const double along = place - static_cast<double>(segment);
  const Hue from = hues[segment], to = hues[segment + 1];
  return from_oklab(darkest + std::clamp(t, 0., 1.) * (brightest - darkest),
                    {from.a + along * (to.a - from.a), from.b + along * (to.b - from.b)});
}

Color text_color_on(Color color) {
  const int brightness = 299 * color.red + 587 * color.green + 114 * color.blue;  // in thousandths
  return brightness > 128000 ? Color{20, 20, 30} : Color{255, 255, 255};
}

}  // namespace attn::apps
