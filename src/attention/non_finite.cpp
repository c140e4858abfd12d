#include "attention/non_finite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {

void NonFiniteValues::note_visible(const QueryTile& tile) {
  constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    for (std::int64_t j = range.begin; j < range.end; ++j)
      tile.visible_row(r)[j] = tile.row(r)[j] != minus_infinity;
  }
}

float NonFiniteValues::probability(const QueryTile& tile, std::int64_t r, std::int64_t j) const {
  if (blocking_.vnni_factor == 1) return tile.row(r)[j];
  float value = 0;
  const auto* const pairs = reinterpret_cast<const std::uint16_t*>(tile.row(r));
  context_.kernels().widen_bf16(pairs + j, 1, &value);
  return value;
}

void NonFiniteValues::add(const QueryTile& tile, float* out) const {
  const HeadQueries& head = tile.block_rows->head;
  const std::int64_t v_head_dim = context_.sizes().v_head_dim;
  for (std::int64_t j = tile.visible_range.begin; j < tile.visible_range.end; ++j) {
    const Row row =
        context_.layout.keys(head.batch, head.kv_head, tile.block_begin + j, 1).value(0);
    const float* value = as_floats(row, v_head_dim, context_.kernels(), staging_);
    for (std::int64_t n = 0; n < v_head_dim; ++n) {
      if (std::isfinite(value[n])) continue;
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const KeyRange range = tile.range(r);
        const bool seen = j >= range.begin && j < range.end && tile.visible_row(r)[j];
        if (seen) out[r * blocking_.value_width + n] += probability(tile, r, j) * value[n];
      }
    }
  }
}

void NonFiniteValues::read_finite(Row value, float* to) const {
  value.scale = 1;
  const std::int64_t v_head_dim = context_.sizes().v_head_dim;
  read_row(value, v_head_dim, context_.kernels(), to);
  std::replace_if(
      to, to + v_head_dim, [](float x) { return !std::isfinite(x); }, 0.f);
}

}  // namespace attn::detail
