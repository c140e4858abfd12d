// A heat map as pixels: queries from above to below, keys from left to right.
#pragma once

#include <span>
#include <string>

#include "canvas.hpp"
#include "colors.hpp"
#include "placing.hpp"
#include "weight_map.hpp"

namespace attn::apps::demo {

/// Where draw_map puts its cells.
CellArea cells_of(const WeightMap& map);

/// One head with axes, labels, a color bar and, where cells are large, the weights in figures. The
/// grid must not be empty.
Canvas draw_map(const WeightMap& map, const ColorScale& scale);

/// Several heads of one size, each a small panel with its own title, on one scale. None may be
/// empty.
Canvas draw_maps(std::span<const WeightMap> maps, const ColorScale& scale,
                 const std::string& title);

}  // namespace attn::apps::demo
