// All kinds of masks, to be combined.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "support/case.hpp"

namespace attn::test {

/// No causal mask, both presets, and offsets that leave rows empty, full or partly visible.
inline std::vector<std::optional<Causal>> causal_masks(std::int64_t q_len, std::int64_t kv_len) {
  return {std::nullopt,
          Causal::bottom_right(),
          Causal::top_left(),
          Causal::with_offset(-3),
          Causal::with_offset(4),
          Causal::with_offset(-q_len),
          Causal::with_offset(kv_len)};
}

/// No window, and every combination of narrow, wide and unlimited sides.
inline std::vector<std::optional<Window>> windows() {
  std::vector<std::optional<Window>> all{std::nullopt};
  const std::optional<std::int64_t> sides[] = {0, 2, 40, std::nullopt};
  for (const auto& left : sides) {
    for (const auto& right : sides) all.push_back(Window{left, right});
  }
  return all;
}

/// Mask shapes: every rank, every pattern of broadcast dims, with a last dim of kv_len and shorter.
inline std::vector<Dims> mask_shapes(const Case& c) {
  std::vector<Dims> shapes;
  for (int rank = 1; rank <= 4; ++rank) {
    for (int broadcast = 0; broadcast < 1 << rank; ++broadcast) {
      const std::int64_t full[] = {c.batch, c.num_q_heads, c.q_len, c.kv_len};
      Dims shape(full + 4 - rank, rank);
      for (int dim = 0; dim < rank; ++dim) {
        if (broadcast >> dim & 1) shape[dim] = 1;
      }
      shapes.push_back(shape);
      if (shape[rank - 1] == 1) continue;
      shape[rank - 1] -= c.kv_len / 3;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

}  // namespace attn::test
