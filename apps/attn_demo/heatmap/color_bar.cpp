#include "color_bar.hpp"

#include <algorithm>
#include <cmath>

#include "font.hpp"

namespace attn::apps::demo {
namespace {

constexpr int bar_width = 22, tick = 5, gap = 6, text_scale = 2;
constexpr int swatch_height = 20, swatch_step = swatch_height + 10, above_swatches = 16;

}  // namespace

int color_bar_height(int beside) {
  constexpr int least = 160, most = 480;
  return std::clamp(beside, least, most);
}

ColorBar::ColorBar(const ColorScale& scale, int bar_height, std::span<const WeightMap> maps)
    : scale_(scale), bar_height_(bar_height) {
  for (const WeightMap& map : maps) {
    for (std::size_t n = 0; n < map.grid.weights.size(); ++n) {
      if (map.grid.hidden[n] != 0)
        hidden_ = true;
      else if (std::isnan(map.grid.weights[n]))
        nan_ = true;
    }
  }
}

int ColorBar::width() const {
  int letters = text_width(hidden_ ? "hidden" : "NaN", text_scale);
  for (const auto& [place, words] : scale_.ticks())
    letters = std::max(letters, text_width(words, text_scale));
  return bar_width + tick + gap + letters;
}

int ColorBar::height() const {
  return bar_height_ + above_swatches + swatch_step * (hidden_ + nan_);
}

void ColorBar::draw(Canvas& canvas, int left, int top) const {
  for (int y = 0; y < bar_height_; ++y) {
    canvas.fill({left, top + y, bar_width, 1},
                map_color(1 - static_cast<double>(y) / (bar_height_ - 1)));
  }
  canvas.frame({left, top, bar_width, bar_height_}, faint_ink);
  const int words_left = left + bar_width + tick + gap, half_letter = cap_height * text_scale / 2;
  for (const auto& [place, words] : scale_.ticks()) {
    const int y = top + static_cast<int>(std::lround((1 - place) * (bar_height_ - 1)));
    canvas.fill({left + bar_width + 1, y, tick, 1}, faint_ink);
    canvas.text(words_left, y - half_letter, words);
  }
  int swatch_top = top + bar_height_ + above_swatches;
  const auto name = [&](const Box& swatch, const char* words) {
    canvas.frame(swatch, faint_ink);
    canvas.text(words_left, swatch.top + swatch_height / 2 - half_letter, words);
    swatch_top += swatch_step;
  };
  if (hidden_) {
    const Box swatch{left, swatch_top, bar_width, swatch_height};
    canvas.hatch(swatch);
    name(swatch, "hidden");
  }
  if (nan_) {
    const Box swatch{left, swatch_top, bar_width, swatch_height};
    canvas.fill(swatch, nan_color);
    name(swatch, "NaN");
  }
}

}  // namespace attn::apps::demo
