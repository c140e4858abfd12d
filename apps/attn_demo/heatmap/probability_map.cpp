#include "probability_map.hpp"

#include <algorithm>
#include <cmath>

namespace attn::apps::demo {
namespace {

struct Cell {
  float probability = 0;
  bool hidden = true;
};

Cell cell_of(const Grid& grid, std::int64_t first_row, std::int64_t first_column, Blocks blocks) {
  Cell cell;
  for (std::int64_t row = first_row; row < std::min(first_row + blocks.rows, grid.rows); ++row) {
    for (std::int64_t column = first_column;
         column < std::min(first_column + blocks.columns, grid.columns); ++column) {
      if (grid.is_hidden(row, column)) continue;
      const float probability = grid.probability(row, column);
      // A comparison with NaN is false, so a NaN is never replaced by a number.
      if (cell.hidden || std::isnan(probability) || probability > cell.probability)
        cell.probability = probability;
      cell.hidden = false;
    }
  }
  return cell;
}

}  // namespace

Grid::Grid(std::int64_t row_count, std::int64_t column_count)
    : rows(row_count),
      columns(column_count),
      probabilities(static_cast<std::size_t>(row_count * column_count)),
      hidden(static_cast<std::size_t>(row_count * column_count)) {}

Grid reduced(const Grid& grid, Blocks blocks) {
  Grid result(ceil_div(grid.rows, blocks.rows), ceil_div(grid.columns, blocks.columns));
  for (std::int64_t row = 0; row < result.rows; ++row) {
    for (std::int64_t column = 0; column < result.columns; ++column) {
      const Cell cell = cell_of(grid, row * blocks.rows, column * blocks.columns, blocks);
      result.probabilities[result.index(row, column)] = cell.probability;
      result.hidden[result.index(row, column)] = cell.hidden ? 1 : 0;
    }
  }
  return result;
}

}  // namespace attn::apps::demo
