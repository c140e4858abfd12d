// How large cells are and which of them are named: numbers in, numbers out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "canvas.hpp"
#include "weight_map.hpp"

namespace attn::apps::demo {

/// Where cells lie: cell [row, column] has its upper left pixel at left + column * cell_width, top
/// + row * cell_height.
struct CellArea {
  int left = 0, top = 0;
  int cell_width = 1, cell_height = 1;
  Blocks blocks;                       // of weights that a cell stands for
  std::int64_t rows = 0, columns = 0;  // of cells

  int width() const { return cell_width * static_cast<int>(columns); }
  int height() const { return cell_height * static_cast<int>(rows); }
  Box box() const { return {left, top, width(), height()}; }
  Box cell(std::int64_t row, std::int64_t column) const {
    return {left + static_cast<int>(column) * cell_width, top + static_cast<int>(row) * cell_height,
            cell_width, cell_height};
  }
};

/// The least and most pixels of one side of a cell, and the pixels that all of them together should
/// not exceed.
struct CellSizes {
  int least, most, together;
};
/// At 0, 0. Cells are square, unless one side has so many that cells would be too thin to see.
CellArea cell_area(const Grid& grid, CellSizes width, CellSizes height);

/// A name on an axis, and how many pixels from the axis' beginning its middle is.
struct Mark {
  int middle;
  std::string text;
};
/// One axis of an area.
struct AxisPlaces {
  std::int64_t count;  // of weights
  std::int64_t block;
  int cell;
};
/// As many names as fit where each takes `room` pixels: all of them, every second, fifth, tenth and
/// so on.
std::vector<Mark> marks(const std::vector<std::string>& labels, AxisPlaces axis, int room);

int widest(const std::vector<Mark>& marks);

}  // namespace attn::apps::demo
