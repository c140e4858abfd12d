// Attention weights to look at: what every source of weights makes, and every way to show them
// takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attn::apps::demo {

/// A matrix of weights, a row for each query and a column for each key.
struct Grid {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> weights;  // rows * columns
  std::vector<unsigned char>
      hidden;  // as many: 1 where a mask hides the key, whatever the weight is

  Grid() = default;
  Grid(std::int64_t row_count, std::int64_t column_count);
  std::size_t index(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * columns + column);
  }
  float weight(std::int64_t row, std::int64_t column) const { return weights[index(row, column)]; }
  bool is_hidden(std::int64_t row, std::int64_t column) const {
    return hidden[index(row, column)] != 0;
  }
};

/// How many queries and keys one cell of a picture stands for.
struct Blocks {
  std::int64_t rows = 1, columns = 1;
};

/// A smaller grid for pictures with less room: each cell is the largest weight of a block (so that
/// a key that stands out is seen however many lie around it), NaN if there is one, and hidden if
/// all of the block is. Blocks at the ends may be smaller.
Grid reduced(const Grid& grid, Blocks blocks);

/// The weights of one head.
struct WeightMap {
  Grid grid;
  std::vector<std::string> row_labels,
      column_labels;  // as labels.hpp makes them; none: numbers from 0
  std::string title;
};

/// The number of places of a whole that is split into parts, the last one of which may be smaller.
constexpr std::int64_t parts_of(std::int64_t whole, std::int64_t part) {
  return (whole + part - 1) / part;
}

}  // namespace attn::apps::demo
