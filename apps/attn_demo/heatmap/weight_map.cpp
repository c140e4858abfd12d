#include "weight_map.hpp"

#include <algorithm>
#include <cmath>

namespace attn::apps::demo {
namespace {

struct Cell {
  float weight = 0;
  bool hidden = true;
};

Cell cell_of(const Grid& grid, std::int64_t first_row, std::int64_t first_column, Blocks blocks) {
  Cell cell;
  for (std::int64_t row = first_row; row < std::min(first_row + blocks.rows, grid.rows); ++row) {
    for (std::int64_t column = first_column;
         column < std::min(first_column + blocks.columns, grid.columns); ++column) {
      if (grid.is_hidden(row, column)) continue;
      const float weight = grid.weight(row, column);
      // A comparison with NaN is false: once it is there it stays.
      if (cell.hidden || std::isnan(weight) || weight > cell.weight) cell.weight = weight;
      cell.hidden = false;
    }
  }
  return cell;
}

}  // namespace

Grid::Grid(std::int64_t row_count, std::int64_t column_count)
    : rows(row_count),
      columns(column_count),
      weights(static_cast<std::size_t>(row_count * column_count)),
      hidden(static_cast<std::size_t>(row_count * column_count)) {}

Grid reduced(const Grid& grid, Blocks blocks) {
  Grid result(parts_of(grid.rows, blocks.rows), parts_of(grid.columns, blocks.columns));
  for (std::int64_t row = 0; row < result.rows; ++row) {
    for (std::int64_t column = 0; column < result.columns; ++column) {
      const Cell cell = cell_of(grid, row * blocks.rows, column * blocks.columns, blocks);
      result.weights[result.index(row, column)] = cell.weight;
      result.hidden[result.index(row, column)] = cell.hidden ? 1 : 0;
    }
  }
  return result;
}

}  // namespace attn::apps::demo
