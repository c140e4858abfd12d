// A heat map as text.
#pragma once

#include <string>

#include "colors.hpp"
#include "weight_map.hpp"

namespace attn::apps::demo {

struct TerminalStyle {
  bool colored = false;  // else by characters
  int width = 100;       // letters in a line
};

/// Lines with two characters a cell: the names of the keys, upright, a line for each query, and a
/// key to the colors or characters. UTF-8.
std::string terminal_map(const WeightMap& map, const ColorScale& scale, const TerminalStyle& style);

}  // namespace attn::apps::demo
