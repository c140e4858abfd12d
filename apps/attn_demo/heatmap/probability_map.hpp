// Attention probabilities as a matrix. Every source of them makes such maps, and every kind of
// picture is drawn from them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace attn::apps::demo {

/// A matrix of probabilities, a row for each query and a column for each key.
struct Grid {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> probabilities;   // rows * columns
  std::vector<unsigned char> hidden;  // rows * columns: 1 if a mask hides the key

  Grid() = default;
  Grid(std::int64_t row_count, std::int64_t column_count);
  std::size_t index(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * columns + column);
  }
  float probability(std::int64_t row, std::int64_t column) const {
    return probabilities[index(row, column)];
  }
  bool is_hidden(std::int64_t row, std::int64_t column) const {
    return hidden[index(row, column)] != 0;
  }
};

/// How many queries and keys one cell of a picture stands for.
struct Blocks {
  std::int64_t rows = 1, columns = 1;
};

/// A smaller grid for pictures with less room. Each cell is the largest probability of its block,
/// so that a key that stands out stays visible. It is NaN if the block has a NaN, and hidden if the
/// whole block is hidden. The last blocks may be smaller.
Grid reduced(const Grid& grid, Blocks blocks);

/// The probabilities of one head.
struct ProbabilityMap {
  Grid grid;
  std::vector<std::string> row_labels, column_labels;  // empty: numbers from 0
  std::string title;
};

/// a / b, rounded up.
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace attn::apps::demo
