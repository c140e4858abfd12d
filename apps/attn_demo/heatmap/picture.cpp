#include "picture.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "apps/drawing/font.hpp"
#include "labels.hpp"

namespace attn::apps::demo {
namespace {

constexpr int margin = 24, gap = 10, tick = 5;
constexpr int title_scale = 3, label_scale = 2, small_scale = 1;
constexpr int line_height = (glyph_height + 1) * label_scale;
constexpr std::size_t longest_title = 100;
constexpr int separated = 20;  // cells of at least this size have white lines between them

// The color bar.

constexpr int bar_width = 22, bar_tick = 5, bar_gap = 6;
constexpr int swatch_height = 20, swatch_step = swatch_height + 10, above_swatches = 16;

/// The height of a bar beside something of the given height.
int color_bar_height(int beside) {
  constexpr int least = 160, most = 480;
  return std::clamp(beside, least, most);
}

/// The color map with numbers beside it. Below it stand the colors of hidden keys and of NaN, if a
/// map has them.
class ColorBar {
 public:
  ColorBar(const ColorScale& scale, int bar_height, std::span<const ProbabilityMap> maps);

  int width() const;
  int height() const;
  void draw(Canvas& canvas, int left, int top) const;

 private:
  const ColorScale& scale_;
  int bar_height_;
  bool hidden_ = false, nan_ = false;
};

ColorBar::ColorBar(const ColorScale& scale, int bar_height, std::span<const ProbabilityMap> maps)
    : scale_(scale), bar_height_(bar_height) {
  for (const ProbabilityMap& map : maps) {
    for (std::size_t n = 0; n < map.grid.probabilities.size(); ++n) {
      if (map.grid.hidden[n] != 0)
        hidden_ = true;
      else if (std::isnan(map.grid.probabilities[n]))
        nan_ = true;
    }
  }
}

int ColorBar::width() const {
  int letters = text_width(hidden_ ? "hidden" : "NaN", label_scale);
  for (const auto& [place, text] : scale_.ticks())
    letters = std::max(letters, text_width(text, label_scale));
  return bar_width + bar_tick + bar_gap + letters;
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
  const int text_left = left + bar_width + bar_tick + bar_gap,
            half_letter = cap_height * label_scale / 2;
  for (const auto& [place, text] : scale_.ticks()) {
    const int y = top + static_cast<int>(std::lround((1 - place) * (bar_height_ - 1)));
    canvas.fill({left + bar_width + 1, y, bar_tick, 1}, faint_ink);
    canvas.text(text_left, y - half_letter, text);
  }
  int swatch_top = top + bar_height_ + above_swatches;
  const auto name = [&](const Box& swatch, const char* text) {
    canvas.frame(swatch, faint_ink);
    canvas.text(text_left, swatch.top + swatch_height / 2 - half_letter, text);
    swatch_top += swatch_step;
  };
  if (hidden_) {
    const Box swatch{left, swatch_top, bar_width, swatch_height};
    canvas.hatch(swatch, hidden_color, hatch_color);
    name(swatch, "hidden");
  }
  if (nan_) {
    const Box swatch{left, swatch_top, bar_width, swatch_height};
    canvas.fill(swatch, nan_color);
    name(swatch, "NaN");
  }
}

// The map beside it.

bool is_labeled(const ProbabilityMap& map) {
  return !map.row_labels.empty() || !map.column_labels.empty();
}

/// An axis with labels gets room for each of them, unless there are very many.
CellSizes sizes_of(std::int64_t count, bool labeled) {
  constexpr std::int64_t many = 100;
  constexpr int together = 960, most = 72, legible = line_height;
  if (labeled && count <= many)
    return {legible, most, std::max(together, static_cast<int>(count) * legible)};
  return {1, most, together};
}

/// The position and size of everything in the image of one map.
struct Page {
  CellArea cells;
  std::vector<Mark> rows, columns;
  bool upright_columns = false;    // labels are vertical, numbers horizontal
  bool upright_query = false;      // vertical if the map is high enough
  std::vector<std::string> notes;  // below the map
  int title_size = title_scale;
  int axis_bottom = 0, bar_left = 0, bar_height = 0;
  int width = 0, height = 0;
};

std::vector<std::string> notes_of(const CellArea& cells, const ColorScale& scale) {
  std::vector<std::string> notes;
  if (cells.blocks.rows * cells.blocks.columns > 1) {
    notes.push_back(fmt::format("each cell: the largest of {} {} {} probabilities",
                                cells.blocks.rows, times_sign, cells.blocks.columns));
  }
  if (scale.is_logarithmic()) notes.push_back("colors: logarithmic");
  return notes;
}

int size_of_title(const std::string& title, int room) {
  return text_width(title, title_scale) <= room ? title_scale : label_scale;
}

void place_axes(Page& page, const ProbabilityMap& map) {
  CellArea& cells = page.cells;
  cells = cell_area(map.grid, sizes_of(map.grid.columns, is_labeled(map)),
                    sizes_of(map.grid.rows, is_labeled(map)));
  page.rows = marks(map.row_labels, {map.grid.rows, cells.blocks.rows, cells.cell_height},
                    map.row_labels.empty() ? line_height + gap : line_height);
  page.upright_columns = !map.column_labels.empty();
  const int number = text_width(fmt::format("{}", map.grid.columns - 1), label_scale) + gap;
  page.columns =
      marks(map.column_labels, {map.grid.columns, cells.blocks.columns, cells.cell_width},
            page.upright_columns ? line_height : number);
  const int name = text_width("query", label_scale);
  page.upright_query = cells.height() >= name;
  cells.left = margin + (page.upright_query ? text_height(label_scale) : name) + gap +
               widest(page.rows) + tick + gap / 2;
  cells.top = margin + text_height(title_scale) + gap + gap / 2;
  const int names = page.upright_columns ? widest(page.columns) : text_height(label_scale);
  page.axis_bottom = cells.top + cells.height() + tick + gap / 2 + names + gap / 2;
}

Page page_of(const ProbabilityMap& map, const ColorScale& scale) {
  Page page;
  place_axes(page, map);
  const CellArea& cells = page.cells;
  page.notes = notes_of(cells, scale);
  page.bar_left = cells.left + cells.width() + 2 * gap + gap / 2;
  page.bar_height = color_bar_height(cells.height());
  const ColorBar bar(scale, page.bar_height, {&map, 1});
  page.width = page.bar_left + bar.width() + margin;
  for (const std::string& note : page.notes)
    page.width = std::max(page.width, cells.left + text_width(note, label_scale) + margin);
  const std::string title = shortened(map.title, longest_title);
  page.title_size = size_of_title(title, page.width - 2 * margin);
  page.width = std::max(page.width, text_width(title, page.title_size) + 2 * margin);
  const int left_bottom = page.axis_bottom + line_height + (page.notes.empty() ? 0 : gap / 2) +
                          static_cast<int>(page.notes.size()) * line_height;
  page.height = std::max(left_bottom, cells.top + bar.height()) + margin - gap / 2;
  return page;
}

/// Two decimals. Small probabilities that are not 0 are written as "<.01".
std::string figures(float probability) {
  if (std::isnan(probability)) return "NaN";
  if (probability == 0) return "0";
  if (probability < 0.005f) return "<.01";
  return fmt::format("{:.2f}", probability);
}

void draw_figures(Canvas& canvas, const Box& cell, float probability, Color background) {
  const std::string text = figures(probability);
  constexpr int padding = 6;
  const int widest_figures = static_cast<int>(std::string_view("0.00").size());
  const auto fits = [&](int scale) {
    return cell.width >= (widest_figures * glyph_step - 1) * scale + padding;
  };
  if (!fits(small_scale) || cell.height < text_height(small_scale) + padding) return;
  const int scale = fits(label_scale) && cell.height >= text_height(label_scale) + padding
                        ? label_scale
                        : small_scale;
  canvas.text(cell.left + (cell.width - text_width(text, scale)) / 2,
              cell.top + (cell.height - cap_height * scale) / 2, text,
              {scale, text_color_on(background)});
}

void draw_cells(Canvas& canvas, const CellArea& area, const Grid& grid, const ColorScale& scale) {
  const bool whole = area.blocks.rows * area.blocks.columns == 1;
  const Grid cells = whole ? grid : reduced(grid, area.blocks);
  const int line = std::min(area.cell_width, area.cell_height) >= separated ? 1 : 0;
  for (std::int64_t row = 0; row < cells.rows; ++row) {
    for (std::int64_t column = 0; column < cells.columns; ++column) {
      Box box = area.cell(row, column);
      box.width -= line;
      box.height -= line;
      if (cells.is_hidden(row, column)) {
        canvas.hatch(box, hidden_color, hatch_color);
        continue;
      }
      const float probability = cells.probability(row, column);
      const Color color = scale.color(probability);
      canvas.fill(box, color);
      if (whole) draw_figures(canvas, box, probability, color);
    }
  }
  canvas.frame(area.box(), faint_ink);
}

void draw_row_labels(Canvas& canvas, const Page& page) {
  const int right = page.cells.left - 1;
  for (const Mark& mark : page.rows) {
    const int middle = page.cells.top + mark.middle;
    canvas.fill({right - tick, middle, tick, 1}, faint_ink);
    canvas.text(right - tick - gap / 2 - text_width(mark.text, label_scale),
                middle - cap_height * label_scale / 2, mark.text);
  }
}

void draw_column_labels(Canvas& canvas, const Page& page) {
  const int bottom = page.cells.top + page.cells.height() + 1;
  for (const Mark& mark : page.columns) {
    const int middle = page.cells.left + mark.middle, width = text_width(mark.text, label_scale);
    canvas.fill({middle, bottom, 1, tick}, faint_ink);
    const int top = bottom + tick + gap / 2;
    if (page.upright_columns)
      canvas.upright_text(middle - cap_height * label_scale / 2, top + width, mark.text);
    else
      canvas.text(middle - width / 2, top, mark.text);
  }
}

void draw_axis_names(Canvas& canvas, const Page& page) {
  const CellArea& cells = page.cells;
  const int query = text_width("query", label_scale), middle = cells.top + cells.height() / 2;
  const Lettering faint{label_scale, faint_ink};
  if (page.upright_query)
    canvas.upright_text(margin, middle + query / 2, "query", faint);
  else
    canvas.text(margin, middle - cap_height * label_scale / 2, "query", faint);
  canvas.text(cells.left + (cells.width() - text_width("key", label_scale)) / 2, page.axis_bottom,
              "key", faint);
}

void draw_notes(Canvas& canvas, int left, int top, const std::vector<std::string>& notes) {
  for (std::size_t n = 0; n < notes.size(); ++n) {
    canvas.text(left, top + static_cast<int>(n) * line_height, notes[n], {label_scale, faint_ink});
  }
}

}  // namespace

CellArea cells_of(const ProbabilityMap& map) {
  Page page;
  place_axes(page, map);
  return page.cells;
}

Canvas draw_map(const ProbabilityMap& map, const ColorScale& scale) {
  const Page page = page_of(map, scale);
  Canvas canvas(page.width, page.height);
  canvas.text(margin, margin, shortened(map.title, longest_title), {page.title_size, ink});
  draw_cells(canvas, page.cells, map.grid, scale);
  draw_row_labels(canvas, page);
  draw_column_labels(canvas, page);
  draw_axis_names(canvas, page);
  draw_notes(canvas, page.cells.left, page.axis_bottom + line_height + gap / 2, page.notes);
  ColorBar(scale, page.bar_height, {&map, 1}).draw(canvas, page.bar_left, page.cells.top);
  return canvas;
}

Canvas draw_maps(std::span<const ProbabilityMap> maps, const ColorScale& scale,
                 const std::string& title) {
  const auto count = static_cast<std::int64_t>(maps.size());
  const auto across = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  constexpr int together = 1000, smallest = 64, largest = 320, most = 24;
  const CellSizes sizes{1, most,
                        std::clamp(together / static_cast<int>(across), smallest, largest)};
  CellArea area = cell_area(maps.front().grid, sizes, sizes);
  int panel_width = area.width();
  for (const ProbabilityMap& map : maps)
    panel_width = std::max(panel_width, text_width(map.title, label_scale));
  panel_width += 2 * gap;
  const int panel_height = area.height() + line_height + 2 * gap;
  const int top = margin + text_height(title_scale) + gap;
  const int down = static_cast<int>(ceil_div(count, across));

  std::vector<std::string> notes = {"queries downwards, keys to the right"};
  for (const std::string& note : notes_of(area, scale)) notes.push_back(note);
  const int bar_left = margin + static_cast<int>(across) * panel_width + gap;
  const ColorBar bar(scale, color_bar_height(down * panel_height - line_height - 2 * gap), maps);
  int width =
      std::max(bar_left + bar.width() + margin, margin * 2 + text_width(title, label_scale));
  for (const std::string& note : notes)
    width = std::max(width, text_width(note, label_scale) + 2 * margin);
  const int notes_top = std::max(top + down * panel_height, top + line_height + bar.height());
  Canvas canvas(width, notes_top + static_cast<int>(notes.size()) * line_height + margin);

  canvas.text(margin, margin, title, {size_of_title(title, width - 2 * margin), ink});
  for (std::int64_t n = 0; n < count; ++n) {
    area.left = margin + static_cast<int>(n % across) * panel_width;
    const int panel_top = top + static_cast<int>(n / across) * panel_height;
    area.top = panel_top + line_height;
    canvas.text(area.left, panel_top, maps[static_cast<std::size_t>(n)].title);
    draw_cells(canvas, area, maps[static_cast<std::size_t>(n)].grid, scale);
  }
  bar.draw(canvas, bar_left, top + line_height);
  draw_notes(canvas, margin, notes_top, notes);
  return canvas;
}

}  // namespace attn::apps::demo
