#include "attention/query_tiles.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attn::detail {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// From the first to the last key that any row of the tile sees.
KeyRange union_of_ranges(const QueryTile& tile) {
  KeyRange all{std::numeric_limits<std::int64_t>::max(), 0};
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    if (!range.empty()) all = {std::min(all.begin, range.begin), std::max(all.end, range.end)};
  }
  return all;
}

/// Row r sees what row 0 sees.
void copy_visibility(QueryTile& tile, std::int64_t r) {
  if (tile.hides[0]) {
    std::copy(tile.visible_row(0) + tile.begin[0], tile.visible_row(0) + tile.end[0],
              tile.visible_row(r) + tile.begin[0]);
  }
  tile.hides[r] = tile.hides[0];
  tile.begin[r] = tile.begin[0];
  tile.end[r] = tile.end[0];
}

bool all_see(const QueryTile& tile, KeyRange keys) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    if (tile.range(r) != keys) return false;
  }
  return true;
}

}  // namespace

void hide_outside(const QueryTile& tile, std::int64_t r, KeyRange keys) noexcept {
  float* const scores = tile.row(r) - tile.block_begin;  // by key
  const KeyRange seen = tile.range(r).empty() ? KeyRange{keys.end, keys.end} : tile.keys(r);
  for (const KeyRange& hidden : {KeyRange{keys.begin, seen.begin}, KeyRange{seen.end, keys.end}})
    std::fill_n(scores + hidden.begin, hidden.size(), minus_infinity);
}

QueryBlock QueryTiles::block_of(const HeadQueries& head, std::int64_t first, std::int64_t count,
                                KeyRange among) const {
  const std::int64_t group_size = context_.sizes().group_size;
  // Both ends of a row's range never decrease from row to row.
  const KeyRange first_sees = intersection(head.visibility.range_of(first / group_size), among);
  const KeyRange last_sees =
      intersection(head.visibility.range_of((first + count - 1) / group_size), among);
  const KeyRange any{first_sees.begin, last_sees.end};
  return {.head = head,
          .first = first,
          .count = count,
          .visible_to_any = any,
          .visible_to_all = {last_sees.begin, first_sees.end},
          .first_block = any.begin / blocking_.kv_block,
          .last_block = (any.end - 1) / blocking_.kv_block,
          .kv_block = blocking_.kv_block};
}

QueryRow QueryTiles::query_row(const QueryBlock& rows, std::int64_t r) const {
  const std::int64_t group_size = context_.sizes().group_size;
  const std::int64_t row = rows.first + r;
  const std::int64_t q_index = row / group_size;
  const std::int64_t q_head = rows.head.kv_head * group_size + row % group_size;
  return {rows.head.batch, q_head, rows.head.kv_head, q_index,
          rows.head.visibility.position(q_index)};
}

Row QueryTiles::query(const QueryBlock& rows, std::int64_t r) const {
  const QueryRow query = query_row(rows, r);
  return context_.layout.query(query.batch, query.q_head, query.q_index);
}

KeyRange QueryTiles::block_keys(std::int64_t block) const {
  return {block * blocking_.kv_block, (block + 1) * blocking_.kv_block};
}

BlockMask::Blocks::Queries QueryTiles::queries_of(const HeadQueries& head, std::int64_t first,
                                                  std::int64_t count) const noexcept {
  const std::int64_t group_size = context_.sizes().group_size;
  const std::int64_t q_head = head.kv_head * group_size;
  return {.batch = head.batch,
          .head_begin = q_head,
          .head_end = q_head + group_size,
          .begin = first / group_size,
          .end = (first + count - 1) / group_size + 1};
}

QueryBlock QueryTiles::unhidden_block_of(const HeadQueries& head, std::int64_t first,
                                         std::int64_t count, KeyRange among) const {
  QueryBlock rows = block_of(head, first, count, among);
  const std::optional<BlockMask>& block_mask = context_.call.options.block_mask;
  KeyRange keys = rows.visible_to_any;
  if (block_mask && !keys.empty())
    keys = block_mask->blocks().visible_keys(queries_of(head, first, count), keys);
  rows.first_block = keys.empty() ? 0 : keys.begin / blocking_.kv_block;
  rows.last_block = keys.empty() ? -1 : (keys.end - 1) / blocking_.kv_block;
  return rows;
}

bool QueryTiles::sees(const QueryBlock& rows, std::int64_t block) const {
  const std::optional<BlockMask>& block_mask = context_.call.options.block_mask;
  return !block_mask ||
         block_mask->blocks().any_visible(queries_of(rows.head, rows.first, rows.count),
                                          intersection(rows.visible_to_any, block_keys(block)));
}

QueryTile QueryTiles::tile_of(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                              std::int64_t block, KeyRange among) {
  const std::int64_t block_begin = block_keys(block).begin;
  const KeyRange keys = intersection(block_keys(block), among);
  QueryTile tile;
  tile.block_rows = &rows;
  tile.block_begin = block_begin;
  tile.first_row = first_row;
  tile.rows = count;
  tile.visible_stride = blocking_.kv_block;
  tile.visible = scratch_.visible;
  if (context_.plan().needs_full_rows)
    tile.visible += block * kernels::tile_rows * blocking_.kv_block;
  const KeyRange any = intersection(rows.visible_to_any, keys);
  tile.full = any == intersection(rows.visible_to_all, keys);
  if (tile.full) {
    tile.visible_range = {any.begin - block_begin, any.end - block_begin};
    std::fill_n(tile.begin, kernels::tile_rows, tile.visible_range.begin);
    std::fill_n(tile.end, kernels::tile_rows, tile.visible_range.end);
  } else {
    const std::int64_t group_size = context_.sizes().group_size;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int64_t q_index = (rows.first + first_row + r) / group_size;
      const KeyRange seen = intersection(
          intersection(rows.head.visibility.range_of(q_index), rows.visible_to_any), keys);
      tile.begin[r] = seen.begin - block_begin;
      tile.end[r] = seen.end - block_begin;
    }
    tile.visible_range = union_of_ranges(tile);
  }
  if (!tile.visible_range.empty()) read_dense_masks(tile);
  return tile;
}

/// Reads the dense masks before any score is computed. The range of a row shrinks to the keys from
/// the first to the last that they leave visible; what is hidden at its ends costs nothing more.
void QueryTiles::read_dense_masks(QueryTile& tile) {
  const RowScores& scores = context_.scores;
  if (!scores.additive() && !scores.dense_visibility()) return;
  // Rows that see the same keys are answered together.
  const QueryBlock& rows = *tile.block_rows;
  const bool alike = tile.full && scores.block_mask_alone() &&
                     context_.call.options.block_mask->blocks().alike(
                         queries_of(rows.head, rows.first + tile.first_row, tile.rows));
  bool plain = true;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    if (tile.range(r).empty()) continue;
    if (alike && r > 0) {
      copy_visibility(tile, r);
      continue;
    }
    const QueryRow query = query_row(tile, r);
    const auto shrink = [&](KeyRange keys) {
      tile.begin[r] = keys.begin - tile.block_begin;
      tile.end[r] = std::max(keys.end - tile.block_begin, tile.begin[r]);
    };
    if (scores.dense_visibility()) {
      const auto seen =
          scores.visible_keys(query, tile.keys(r), tile.visible_row(r) + tile.begin[r]);
      tile.hides[r] = seen.hides;
      shrink(seen.keys);
    }
    if (scores.additive() && !tile.range(r).empty()) {
      const auto seen =
          scores.masked_keys(query, tile.keys(r), scratch_.mask_rows + r * blocking_.kv_block);
      tile.mask[r] = seen.mask;
      shrink(seen.keys);
    }
    plain &= !tile.hides[r] && tile.mask[r] == nullptr;
  }
  tile.visible_range = union_of_ranges(tile);
  tile.full = plain && all_see(tile, tile.visible_range);
}

void QueryTiles::transform(QueryTile& tile, const SavedScores& saved) {
  const RowScores& scores = context_.scores;
  if (!scores.transforms() && !scores.dense_visibility()) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    if (range.empty()) continue;
    float* const run = tile.row(r) + range.begin;
    if (scores.transforms()) {
      scores.transform(query_row(tile, r), tile.keys(r), tile.mask[r], run,
                       saved.of_row(r, range.begin));
    }
    if (tile.hides[r])
      context_.kernels().hide(run, range.size(), tile.visible_row(r) + range.begin);
  }
}

float QueryTiles::sink(const QueryRow& query) const {
  const TensorView& sinks = context_.tensors.sinks;
  if (sinks.absent()) return minus_infinity;
  return static_cast<const float*>(sinks.data)[query.q_head * sinks.strides[0]];
}

/// Writes factor * out as row r of O. Overwrites out.
void QueryTiles::write(const QueryBlock& rows, std::int64_t r, double exact_factor,
                       float* out) const {
  const kernels::Kernels& kernels = context_.kernels();
  const std::int64_t v_head_dim = context_.sizes().v_head_dim;
  const auto factor = static_cast<float>(exact_factor);
  const QueryRow query = query_row(rows, r);
  const Row to = context_.layout.output(query.batch, query.q_head, query.q_index);
  if (to.dense_f32()) return kernels.scale(out, v_head_dim, factor, to.floats());
  kernels.scale(out, v_head_dim, factor, out);
  write_row(out, v_head_dim, kernels, to);
}

void QueryTiles::repair_and_write(const FinalRow& row, RowProbabilities& probabilities,
                                  float* out) const {
  const auto factor = static_cast<float>(row.factor);
  context_.kernels().scale(out, context_.sizes().v_head_dim, factor, out);
  overflowed_.repair(row, probabilities, out);
  write(row.rows, row.r, 1, out);
}

void QueryTiles::write(const QueryBlock& rows, RowProbabilities& probabilities, float* out) const {
  const std::int64_t width = blocking_.value_width;
  const bool finite = context_.kernels().all_finite(out, rows.count * width);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    float* const row = out + r * width;
    finite ? write(rows, r, 1, row) : repair_and_write({rows, r, 1, 0}, probabilities, row);
  }
}

void QueryTiles::finish(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                        const SoftmaxStates& states, RowProbabilities& probabilities,
                        bool tiny_values) const {
  // What was lost is below tiny_bf16, and less than rounding where O is so much greater.
  const float small_below = tiny_values ? kernels::tiny_bf16 * 1024 : 0;
  const std::int64_t width = blocking_.value_width;
  const bool good =
      !tiny_values && context_.kernels().all_finite(states.out + first_row * width, count * width);
  for (std::int64_t r = first_row; r < first_row + count; ++r) {
    const QueryRow query = query_row(rows, r);
    const double row_max =
        static_cast<double>(states.row_max[r]) * context_.scores.remaining_scale();
    const FinishedRow finished(row_max, states.row_sum[r], sink(query));
    float* const out = states.out + r * width;
    if (good || !std::isfinite(states.row_sum[r])) {
      write(rows, r, finished.factor(), out);
    } else {
      repair_and_write({rows, r, finished.factor(), small_below}, probabilities, out);
    }
    float* const lse = context_.layout.lse(query.batch, query.q_head, query.q_index);
    if (lse != nullptr) *lse = finished.lse();
  }
}

}  // namespace attn::detail
