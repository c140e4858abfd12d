// The tiled pass proper. For a block of rows of one KV head:
//
//   for each block of keys that any of the rows sees            (its K and V stay in L2)
//     for each tile of 6 rows                                    (its scores stay in L1)
//       ranges of visible keys; skip the tile if they are empty
//       S = Q K^T                    6-row micro-kernel          reads  K: head_dim floats a key, 6
//       uses each transform the rows           only where asked for online softmax of S rescales
//       the rows of O whose maximum grew
//         O += P V                   the same micro-kernel       reads  V: v_head_dim floats a key,
//         6 uses each
//   O /= row_sum
//
// A score costs 2 * (head_dim + v_head_dim) flops and, from L2, (head_dim + v_head_dim) * 4 / 6
// bytes: 85 bytes in at least 8 cycles of multiply-adds for dims of 64. From beyond L2 each key
// comes once in q_block rows.
#include "attention/prefill.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "iterate/row.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float log2e = 1.44269504088896341f;

std::int64_t round_down(std::int64_t n, std::int64_t to) { return n / to * to; }
std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

PrefillPass::PrefillPass(const PreparedCall& prepared, const AttentionTensors& tensors,
                         const KvLayout& layout, const RowScores& row_scores, const Packer& packer,
                         const ThreadScratch& scratch)
    : blocking_(prepared.blocking),
      sizes_(prepared.problem.sizes),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      layout_(layout),
      row_scores_(row_scores),
      packer_(packer),
      scratch_(scratch),
      tiles_(prepared, blocking_, tensors, layout, row_scores, scratch) {
  if (prepared.score_matmul) score_matmul_.emplace(prepared.score_matmul);
}

void PrefillPass::compute(const HeadQueries& place, std::int64_t q_block, const PackedHead& packed,
                          const std::optional<HeadIndex>& next_head) {
  const std::int64_t first = q_block * blocking_.q_block;
  const std::int64_t count = std::min(blocking_.q_block, place.rows - first);
  const QueryBlock rows =
      tiles_.rows_of(place, first, count, {0, std::numeric_limits<std::int64_t>::max()});
  tiles_.clear(scratch_.states, count);
  if (rows.visible_to_any.empty()) return tiles_.finish(rows, 0, count, scratch_.states);
  find_queries(rows);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    const bool scores_made = score_matmul_ && whole_block(rows, block);
    if (scores_made)
      score_matmul_->execute(scratch_.queries, packer_.keys(packed, block, 0).data,
                             scratch_.score_tile);
    for (std::int64_t first_row = 0; first_row < count; first_row += tile_rows) {
      plan_prefetch(rows, first_row, block, next_head);
      process_tile(rows, first_row, block, packed, scores_made);
      if (block == rows.last_block)
        tiles_.finish(rows, first_row, std::min(tile_rows, count - first_row), scratch_.states);
    }
  }
}

/// Where they lie, if at one stride in words; else gathered.
void PrefillPass::find_queries(const QueryBlock& rows) {
  const Row first = tiles_.query(rows, 0);
  const std::int64_t vnni_factor = blocking_.vnni_factor, key_depth = blocking_.key_depth;
  if (sizes_.group_size == 1 && !score_matmul_ &&
      is_packed(first, sizes_.head_dim, vnni_factor, layout_.query_stride())) {
    queries_ = first.floats();
    query_stride_ = layout_.query_stride() / vnni_factor;
    return;
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_packed(tiles_.query(rows, r), sizes_.head_dim, vnni_factor, kernels_,
                scratch_.queries + r * key_depth);
  }
  queries_ = scratch_.queries;
  query_stride_ = key_depth;
}

/// The next tile's queries before its first block of keys, this tile's outputs before its last, and
/// a share of the K and V of the head that this thread will probably take next.
void PrefillPass::plan_prefetch(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                                const std::optional<HeadIndex>& next_head) {
  ahead_.clear();
  const std::int64_t next_row = first_row + tile_rows, end = std::min(next_row, rows.count);
  const HeadQueries& place = rows.place;
  if (sizes_.group_size == 1 && block == rows.first_block && next_row < rows.count) {
    ahead_.add(layout_.query(place.batch, place.kv_head, rows.first + next_row),
               layout_.query_stride(), sizes_.head_dim, std::min(tile_rows, rows.count - next_row));
  }
  if (sizes_.group_size == 1 && block == rows.last_block) {
    ahead_.add(layout_.output(place.batch, place.kv_head, rows.first + first_row),
               layout_.output_stride(), sizes_.v_head_dim, end - first_row);
  }
  if (!next_head) return;
  const std::int64_t kv_len = layout_.kv_len(next_head->batch);
  const std::int64_t rows_before = (block - rows.first_block) * rows.count;
  const std::int64_t rows_in_all = (rows.last_block - rows.first_block + 1) * rows.count;
  const KeyRange share{kv_len * (rows_before + first_row) / rows_in_all,
                       kv_len * (rows_before + end) / rows_in_all};
  if (share.empty()) return;
  const KeySpan keys =
      layout_.keys(next_head->batch, next_head->kv_head, share.begin, share.size());
  ahead_.add(keys.first_key, keys.key_stride, sizes_.head_dim, keys.count);
  ahead_.add(keys.first_value, keys.value_stride, sizes_.v_head_dim, keys.count);
}

/// Whether a matmul primitive of q_block x kv_block scores fits: all rows there, and all see all
/// keys of the block.
bool PrefillPass::whole_block(const QueryBlock& rows, std::int64_t block) const {
  const KeyRange keys = tiles_.block_keys(block);
  return rows.count == blocking_.q_block && intersection(rows.visible_to_all, keys) == keys;
}

void PrefillPass::process_tile(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                               const PackedHead& packed, bool scores_made) {
  QueryTile tile =
      tiles_.tile_of(rows, first_row, std::min(tile_rows, rows.count - first_row), block);
  if (tile.visible_range.empty()) return;
  if (scores_made) {
    tile.score_stride = blocking_.kv_block;
    tile.scores = scratch_.score_tile + first_row * tile.score_stride;
  } else {
    make_scores(tile, packer_.keys(packed, block,
                                   round_down(tile.visible_range.begin, kernels_.panel_width)));
  }
  tiles_.transform(tile);
  const bool finite = packed.finite[block];
  if (!finite) tiles_.note_visible(tile);
  add_values(tile, packed, block);
  if (finite) return;
  // Packing made those 0.
  float* const out = scratch_.states.out + first_row * blocking_.value_width;
  tiles_.add_visible_values(tile, out, [](float value) { return !std::isfinite(value); });
}

/// From the panel on in which the first visible key lies, to the last in whole vectors.
void PrefillPass::make_scores(QueryTile& tile, const kernels::Panels& keys) {
  tile.scores = scratch_.scores;
  tile.score_stride = score_stride(blocking_);
  const std::int64_t first = round_down(tile.visible_range.begin, kernels_.panel_width);
  // Scores that are neither transformed nor hidden have their maxima taken while they are in
  // registers.
  const bool final = tile.full && !row_scores_.transforms() && tile.visible_range.begin == first &&
                     tile.visible_range.end % arithmetic_.chunk_keys == 0;
  float* const maxima = final ? scratch_.maxima : nullptr;
  if (final) std::fill_n(maxima, kernels::max_vector_width * tile_rows, minus_infinity);
  tile.maxima = maxima;
  arithmetic_.matmul({
      .a = queries_ + tile.first_row * query_stride_,
      .a_stride = query_stride_,
      .b = keys,
      .c = tile.scores + first,
      .c_stride = tile.score_stride,
      .rows = tile.rows,
      .columns = tile.visible_range.end - first,
      .depth = blocking_.key_depth,
      .accumulate = false,
      .maxima = maxima,
      .ahead = ahead_.walk(),
  });
}

void PrefillPass::add_values(const QueryTile& tile, const PackedHead& packed, std::int64_t block) {
  const std::int64_t value_width = blocking_.value_width;
  const std::int64_t first = round_down(tile.visible_range.begin, arithmetic_.chunk_keys);
  arithmetic_.online_softmax({
      .scores = tile.scores,
      .stride = tile.score_stride,
      .rows = tile.rows,
      .begin = tile.begin,
      .end = tile.end,
      .first = first,
      .last = round_up(tile.visible_range.end, arithmetic_.chunk_keys),
      .scale = row_scores_.remaining_scale() * log2e,
      .maxima = tile.maxima,
      .row_max = scratch_.states.row_max + tile.first_row,
      .row_sum = scratch_.states.row_sum + tile.first_row,
      .values = packer_.values(packed, block, first),
      .value_end = tile.visible_range.end,
      .out = scratch_.states.out + tile.first_row * value_width,
      .out_stride = value_width,
      .columns = value_width,
  });
}

}  // namespace attn::detail
