#include "placing.hpp"

#include <algorithm>

#include "labels.hpp"

namespace attn::apps::demo {
namespace {

/// Cells of fewer pixels are hard to see if they are few.
constexpr int thinnest = 24;
constexpr std::size_t longest_label = 16;
constexpr int label_scale = 2;

int cell_size(std::int64_t count, CellSizes sizes) {
  const std::int64_t size =
      std::clamp<std::int64_t>(sizes.together / count, sizes.least, sizes.most);
  return static_cast<int>(size);
}

/// The number of probabilities in a cell if cells have the least size.
std::int64_t block_size(std::int64_t count, CellSizes sizes) {
  return std::max<std::int64_t>(1, ceil_div(count * sizes.least, sizes.together));
}

/// 1, 2, 5, 10, 20, 50, ...
std::int64_t step_of(AxisPlaces axis, int room) {
  const auto fits = [&](std::int64_t step) { return step * axis.cell >= room * axis.block; };
  for (std::int64_t power = 1;; power *= 10) {
    for (const std::int64_t factor : {1, 2, 5}) {
      if (fits(factor * power)) return factor * power;
    }
  }
}

}  // namespace

CellArea cell_area(const Grid& grid, CellSizes width, CellSizes height) {
  CellArea area;
  area.blocks = {block_size(grid.rows, height), block_size(grid.columns, width)};
  area.rows = ceil_div(grid.rows, area.blocks.rows);
  area.columns = ceil_div(grid.columns, area.blocks.columns);
  area.cell_width = cell_size(area.columns, width);
  area.cell_height = cell_size(area.rows, height);
  const int most = std::max(thinnest, std::min(area.cell_width, area.cell_height));
  area.cell_width = std::min(area.cell_width, most);
  area.cell_height = std::min(area.cell_height, most);
  return area;
}

std::vector<Mark> marks(const std::vector<std::string>& labels, AxisPlaces axis, int room) {
  std::vector<Mark> result;
  const std::int64_t step = step_of(axis, room);
  for (std::int64_t place = 0; place < axis.count; place += step) {
    const auto middle = static_cast<int>((2 * (place / axis.block) + 1) * axis.cell / 2);
    result.push_back({middle, shortened(label_at(labels, place), longest_label)});
  }
  return result;
}

int widest(const std::vector<Mark>& marks) {
  int width = 0;
  for (const Mark& mark : marks) width = std::max(width, text_width(mark.text, label_scale));
  return width;
}

}  // namespace attn::apps::demo
