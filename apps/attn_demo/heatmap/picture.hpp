// Heat maps as images: queries from top to bottom, keys from left to right.
#pragma once

#include <span>
#include <string>

#include "apps/drawing/canvas.hpp"
#include "colors.hpp"
#include "placing.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

/// The area of the image in which draw_map draws the cells.
CellArea cells_of(const ProbabilityMap& map);

/// Draws one head with axes, labels and a color bar. Cells that are large enough show their
/// probability as a number. The grid must not be empty.
Canvas draw_map(const ProbabilityMap& map, const ColorScale& scale);

/// Draws several heads of the same size as small panels with a title each, on one color scale.
/// None may be empty.
Canvas draw_maps(std::span<const ProbabilityMap> maps, const ColorScale& scale,
                 const std::string& title);

}  // namespace attn::apps::demo
