// A heat map as text.
#pragma once

#include <string>

#include "colors.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

struct TerminalStyle {
  bool colored = false;  // false: characters stand for probabilities
  int width = 100;       // characters in a line
};

/// The map as lines of UTF-8, two characters a cell: the labels of the keys from top to bottom, one
/// line for each query, and a legend.
std::string terminal_map(const ProbabilityMap& map, const ColorScale& scale,
                         const TerminalStyle& style);

}  // namespace attn::apps::demo
