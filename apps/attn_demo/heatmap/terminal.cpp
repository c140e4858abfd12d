#include "terminal.hpp"

#include <fmt/color.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "labels.hpp"

namespace attn::apps::demo {
namespace {

constexpr int cell_letters = 2;
constexpr std::size_t longest_row_label = 12, longest_column_label = 8;
constexpr std::int64_t most_lines = 48;

/// Characters for small to large probabilities, used without color. Hidden keys have another one.
constexpr std::string_view ramp = " -=+*%#@";
constexpr char hidden_letter = '.', nan_letter = '?';

fmt::rgb rgb(Color color) { return {color.red, color.green, color.blue}; }

std::string colored(Color background, std::string_view letters, Color foreground = {}) {
  return fmt::format(fmt::bg(rgb(background)) | fmt::fg(rgb(foreground)), "{}", letters);
}

char ramp_letter(double position) {
  const auto steps = static_cast<double>(ramp.size());
  return ramp[static_cast<std::size_t>(std::min(position * steps, steps - 1))];
}

std::string cell_text(const Grid& grid, std::int64_t row, std::int64_t column,
                      const ColorScale& scale, bool in_color) {
  const float probability = grid.probability(row, column);
  if (in_color) {
    if (grid.is_hidden(row, column)) return colored(hidden_color, "//", hatch_color);
    return colored(scale.color(probability), "  ");
  }
  const char letter = grid.is_hidden(row, column) ? hidden_letter
                      : std::isnan(probability)   ? nan_letter
                                                  : ramp_letter(scale.position(probability));
  return std::string(cell_letters, letter);
}

/// The labels of the first place of each block.
std::vector<std::string> block_labels(const std::vector<std::string>& labels, std::int64_t count,
                                      std::int64_t block, std::size_t most) {
  std::vector<std::string> result;
  for (std::int64_t place = 0; place < count; place += block)
    result.push_back(shortened(label_at(labels, place), most));
  return result;
}

std::size_t longest(const std::vector<std::string>& labels) {
  std::size_t length = 0;
  for (const std::string& label : labels) length = std::max(length, label.size());
  return length;
}

/// The labels from top to bottom, each above the first character of its cell.
std::string column_heading(const std::vector<std::string>& labels, std::size_t indent) {
  const std::size_t height = longest(labels);
  std::string lines;
  for (std::size_t line = 0; line < height; ++line) {
    std::string text(indent, ' ');
    for (const std::string& label : labels) {
      const std::size_t above = height - label.size();  // they end at the map
      text += line < above ? ' ' : label[line - above];
      text += ' ';
    }
    text.erase(text.find_last_not_of(' ') + 1);
    lines += utf8(text) + '\n';
  }
  return lines;
}

std::string legend(const ProbabilityMap& map, const ColorScale& scale, bool in_color) {
  const auto ticks = scale.ticks();
  std::string bar;
  if (in_color) {
    constexpr int steps = 24;
    for (int n = 0; n < steps; ++n) bar += colored(map_color(n / (steps - 1.)), " ");
  } else {
    bar = fmt::format("[{}]", ramp);
  }
  std::string line = fmt::format("{} {} {}", ticks.front().second, bar, ticks.back().second);
  if (scale.is_logarithmic()) line += ", logarithmic";
  if (std::find(map.grid.hidden.begin(), map.grid.hidden.end(), 1) != map.grid.hidden.end()) {
    line += fmt::format("   {} hidden", in_color ? colored(hidden_color, "//", hatch_color)
                                                 : std::string(cell_letters, hidden_letter));
  }
  return line + '\n';
}

}  // namespace

std::string terminal_map(const ProbabilityMap& map, const ColorScale& scale,
                         const TerminalStyle& style) {
  const Grid& whole = map.grid;
  Blocks blocks{ceil_div(whole.rows, most_lines), 1};
  const std::vector<std::string> rows =
      block_labels(map.row_labels, whole.rows, blocks.rows, longest_row_label);
  const std::size_t margin = longest(rows) + 2;  // a space and an edge
  const int cells = std::max(1, (style.width - static_cast<int>(margin) - 1) / cell_letters);
  blocks.columns = ceil_div(whole.columns, cells);
  const std::vector<std::string> columns =
      block_labels(map.column_labels, whole.columns, blocks.columns, longest_column_label);
  const Grid grid = reduced(whole, blocks);

  std::string text = utf8(map.title) + ": queries downwards, keys to the right\n" +
                     column_heading(columns, margin);
  for (std::int64_t row = 0; row < grid.rows; ++row) {
    const std::string& label = rows[static_cast<std::size_t>(row)];
    text += std::string(margin - 2 - label.size(), ' ') + utf8(label) + " |";
    for (std::int64_t column = 0; column < grid.columns; ++column)
      text += cell_text(grid, row, column, scale, style.colored);
    text += "|\n";
  }
  text += legend(map, scale, style.colored);
  if (blocks.rows * blocks.columns > 1) {
    text += fmt::format("each cell: the largest of {} x {} probabilities\n", blocks.rows,
                        blocks.columns);
  }
  return text;
}

}  // namespace attn::apps::demo
