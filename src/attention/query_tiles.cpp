#include "attention/query_tiles.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/run.hpp"

namespace attn::detail {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

bool hides_all(const float* mask, std::int64_t count) {
  return std::all_of(mask, mask + count, [](float m) { return m == minus_infinity; });
}

}  // namespace

QueryTiles::QueryTiles(const PreparedCall& prepared, const Blocking& blocking,
                       const AttentionTensors& tensors, const KvLayout& layout,
                       const RowScores& row_scores, const ThreadScratch& scratch) noexcept
    : sizes_(prepared.problem.sizes),
      blocking_(blocking),
      kernels_(*prepared.kernels),
      tensors_(tensors),
      layout_(layout),
      row_scores_(row_scores),
      whole_rows_(prepared.needs_full_rows()),
      scratch_(scratch) {}

QueryBlock QueryTiles::rows_of(const HeadQueries& place, std::int64_t first, std::int64_t count,
                               KeyRange among) const {
  // Both ends of a row's range grow from row to row.
  const KeyRange first_sees = intersection(place.sight.of(first / sizes_.group_size), among);
  const KeyRange last_sees =
      intersection(place.sight.of((first + count - 1) / sizes_.group_size), among);
  const KeyRange any{first_sees.begin, last_sees.end};
  return {.place = place,
          .first = first,
          .count = count,
          .visible_to_any = any,
          .visible_to_all = {last_sees.begin, first_sees.end},
          .first_block = any.begin / blocking_.kv_block,
          .last_block = (any.end - 1) / blocking_.kv_block};
}

QueryRow QueryTiles::query_row(const QueryBlock& rows, std::int64_t r) const {
  const std::int64_t row = rows.first + r;
  const std::int64_t q_index = row / sizes_.group_size;
  const std::int64_t q_head = rows.place.kv_head * sizes_.group_size + row % sizes_.group_size;
  return {rows.place.batch, q_head, rows.place.kv_head, q_index,
          rows.place.sight.position(q_index)};
}

Row QueryTiles::query(const QueryBlock& rows, std::int64_t r) const {
  const QueryRow query = query_row(rows, r);
  return layout_.query(query.batch, query.q_head, query.q_index);
}

KeyRange QueryTiles::block_keys(std::int64_t block) const {
  return {block * blocking_.kv_block, (block + 1) * blocking_.kv_block};
}

void QueryTiles::clear(const RowStates& states, std::int64_t count) const {
  std::fill_n(states.out, count * blocking_.value_width, 0.f);
  std::fill_n(states.row_max, count, minus_infinity);
  std::fill_n(states.row_sum, count, 0.f);
}

QueryTile QueryTiles::tile_of(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                              std::int64_t block) {
  const KeyRange keys = block_keys(block);
  QueryTile tile;
  tile.block_rows = &rows;
  tile.block_begin = keys.begin;
  tile.first_row = first_row;
  tile.rows = count;
  tile.visible =
      scratch_.visible + (whole_rows_ ? block * kernels::tile_rows * blocking_.kv_block : 0);
  const KeyRange any = intersection(rows.visible_to_any, keys);
  tile.full = any == intersection(rows.visible_to_all, keys);
  if (tile.full) {
    tile.visible_range = {any.begin - keys.begin, any.end - keys.begin};
    std::fill_n(tile.begin, kernels::tile_rows, tile.visible_range.begin);
    std::fill_n(tile.end, kernels::tile_rows, tile.visible_range.end);
  } else {
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int64_t q_index = (rows.first + first_row + r) / sizes_.group_size;
      const KeyRange seen =
          intersection(intersection(rows.place.sight.of(q_index), rows.visible_to_any), keys);
      tile.begin[r] = seen.begin - keys.begin;
      tile.end[r] = seen.end - keys.begin;
    }
    tile.update_hull();
  }
  if (!tile.visible_range.empty()) look_at_masks(tile);
  return tile;
}

void QueryTile::update_hull() {
  visible_range = {std::numeric_limits<std::int64_t>::max(), 0};
  for (std::int64_t r = 0; r < rows; ++r) {
    if (!range(r).empty())
      visible_range = {std::min(visible_range.begin, range(r).begin),
                       std::max(visible_range.end, range(r).end)};
  }
}

/// Reads the dense masks before any score is made: a row that sees nothing of the block loses its
/// range.
void QueryTiles::look_at_masks(QueryTile& tile) {
  if (!row_scores_.additive() && !row_scores_.dense_visibility()) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange keys = tile.keys(r);
    if (keys.empty()) continue;
    const QueryRow query = query_row(tile, r);
    bool nothing_seen = false;
    if (row_scores_.additive()) {
      const float* mask =
          row_scores_.additive_mask(query, keys, scratch_.mask_rows + r * blocking_.kv_block);
      tile.mask[r] = mask;
      nothing_seen = hides_all(mask, keys.size());
    }
    if (row_scores_.dense_visibility()) {
      const std::int64_t seen = row_scores_.visibility(query, keys, visible(tile, r));
      tile.hides[r] = seen < keys.size();
      nothing_seen |= seen == 0;
    }
    if (nothing_seen) tile.end[r] = tile.begin[r];
  }
  tile.full = false;
  tile.update_hull();
}

void QueryTiles::transform(QueryTile& tile) {
  if (!row_scores_.transforms() && !row_scores_.dense_visibility()) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    if (range.empty()) continue;
    float* run = tile.row(r) + range.begin;
    if (row_scores_.transforms())
      row_scores_.transform(query_row(tile, r), tile.keys(r), tile.mask[r], run);
    if (tile.hides[r]) kernels_.hide(run, range.size(), visible(tile, r));
  }
}

void QueryTiles::note_visible(const QueryTile& tile) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    for (std::int64_t j = range.begin; j < range.end; ++j)
      visible(tile, r)[j] = tile.row(r)[j] != minus_infinity;
  }
}

float QueryTiles::weight(const QueryTile& tile, std::int64_t r, std::int64_t j) const {
  if (blocking_.vnni_factor == 1) return tile.row(r)[j];
  float value = 0;
  kernels_.widen_bf16(reinterpret_cast<const std::uint16_t*>(tile.row(r)) + j, 1, &value);
  return value;
}

float QueryTiles::sink(const QueryRow& query) const {
  if (tensors_.sinks.absent()) return minus_infinity;
  return static_cast<const float*>(tensors_.sinks.data)[query.q_head * tensors_.sinks.strides[0]];
}

void QueryTiles::write(const QueryRow& query, float factor, float* out) const {
  const Row to = layout_.output(query.batch, query.q_head, query.q_index);
  if (to.dense_f32()) return kernels_.scale(out, sizes_.v_head_dim, factor, to.floats());
  kernels_.scale(out, sizes_.v_head_dim, factor, out);
  write_row(out, sizes_.v_head_dim, kernels_, to);
}

void QueryTiles::finish(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                        const RowStates& states) const {
  for (std::int64_t r = first_row; r < first_row + count; ++r) {
    const QueryRow query = query_row(rows, r);
    const double maximum = static_cast<double>(states.row_max[r]) * row_scores_.remaining_scale();
    const double sum = states.row_sum[r], sink_score = sink(query);
    const bool nothing_seen = sum == 0;
    const double with_sink =
        nothing_seen ? 1
                     : sum + (sink_score == minus_infinity ? 0 : std::exp(sink_score - maximum));
    write(query, static_cast<float>(1 / with_sink), states.out + r * blocking_.value_width);
    float* const lse = layout_.lse(query.batch, query.q_head, query.q_index);
    if (lse == nullptr) continue;
    *lse = static_cast<float>(
        nothing_seen || std::isinf(with_sink) ? sink_score : maximum + std::log(with_sink));
  }
}

}  // namespace attn::detail
