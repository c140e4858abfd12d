// The size of the cells of a heat map, and which places of an axis get a label. This is computed
// from numbers alone, without an image.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/drawing/canvas.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

/// The area of the cells. The upper left pixel of cell [row, column] is at
/// (left + column * cell_width, top + row * cell_height).
struct CellArea {
  int left = 0, top = 0;
  int cell_width = 1, cell_height = 1;
  Blocks blocks;                       // how many probabilities a cell stands for
  std::int64_t rows = 0, columns = 0;  // number of cells

  int width() const { return cell_width * static_cast<int>(columns); }
  int height() const { return cell_height * static_cast<int>(rows); }
  Box box() const { return {left, top, width(), height()}; }
  Box cell(std::int64_t row, std::int64_t column) const {
    return {left + static_cast<int>(column) * cell_width, top + static_cast<int>(row) * cell_height,
            cell_width, cell_height};
  }
};

/// The least and most pixels of one side of a cell, and the most pixels of all cells of an axis
/// together.
struct CellSizes {
  int least, most, together;
};
/// The area for a grid, at (0, 0). Cells are square, unless one axis has so many that square cells
/// would be too thin to see.
CellArea cell_area(const Grid& grid, CellSizes width, CellSizes height);

/// A label on an axis; its middle is `middle` pixels from the beginning of the axis.
struct Mark {
  int middle;
  std::string text;
};
/// One axis of a CellArea.
struct AxisPlaces {
  std::int64_t count;  // number of probabilities
  std::int64_t block;  // probabilities of a cell
  int cell;            // pixels of a cell
};
/// As many labels as fit if each takes `room` pixels: all of them, or every second, fifth, tenth
/// and so on.
std::vector<Mark> marks(const std::vector<std::string>& labels, AxisPlaces axis, int room);

int widest(const std::vector<Mark>& marks);

}  // namespace attn::apps::demo
