// The tiled pass proper. For a block of rows of one KV head:
//
//   for each block of keys that any of the rows sees            (its K and V stay in L2)
//     for each tile of 6 rows                                    (its scores stay in L1)
//       ranges of visible keys; skip the tile if they are empty
//       S = Q K^T                    6-row micro-kernel          reads  K: head_dim floats a key, 6 uses each
//       transform the rows           only where asked for
//       online softmax of S          rescales the rows of O whose maximum grew
//         O += P V                   the same micro-kernel       reads  V: v_head_dim floats a key, 6 uses each
//   O /= row_sum
//
// A score costs 2 * (head_dim + v_head_dim) flops and, from L2, (head_dim + v_head_dim) * 4 / 6 bytes: 85 bytes in at least
// 8 cycles of multiply-adds for dims of 64. From beyond L2 each key comes once in q_block rows.
#include "attention/row_block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/rows.hpp"

namespace attn {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float log2e = 1.44269504088896341f;

std::int64_t round_down(std::int64_t n, std::int64_t to) { return n / to * to; }
std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

bool hides_all(const float* mask, std::int64_t count) {
  return std::all_of(mask, mask + count, [](float m) { return m == minus_infinity; });
}

}  // namespace

RowBlockPass::RowBlockPass(const PreparedCall& prepared, const Tensors& tensors, const RowScores& row_scores, const Packer& packer,
                           const ThreadScratch& scratch)
    : prepared_(prepared),
      sizes_(prepared.problem.sizes),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      tensors_(tensors),
      row_scores_(row_scores),
      packer_(packer),
      scratch_(scratch) {
  if (prepared.score_matmul) score_matmul_.emplace(prepared.score_matmul);
}

void RowBlockPass::compute(const HeadPlace& place, std::int64_t q_block, const PackedHead& packed,
                           const std::optional<HeadIndex>& next_head) {
  const Blocking& blocking = prepared_.blocking;
  const std::int64_t first = q_block * blocking.q_block;
  const std::int64_t count = std::min(blocking.q_block, blocking.rows - first);
  // Both ends of a row's range grow from row to row.
  const KeyRange first_sees = place.sight.of(first / sizes_.group_size);
  const KeyRange last_sees = place.sight.of((first + count - 1) / sizes_.group_size);
  const KeyRange any{first_sees.begin, last_sees.end};
  const Rows rows{.place = place,
                  .first = first,
                  .count = count,
                  .seen_by_any = any,
                  .seen_by_all = {last_sees.begin, first_sees.end},
                  .first_block = any.begin / blocking.kv_block,
                  .last_block = (any.end - 1) / blocking.kv_block,
                  .next_head = next_head};
  start(rows);
  if (any.empty()) return finish(rows, 0, count);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    const bool scores_made = score_matmul_ && whole_block(rows, block);
    if (scores_made) score_matmul_->execute(scratch_.queries, packer_.keys(packed, block, 0).data, scratch_.score_tile);
    for (std::int64_t first_row = 0; first_row < count; first_row += tile_rows) {
      look_ahead(rows, first_row, block);
      take_tile(rows, first_row, block, packed, scores_made);
      if (block == rows.last_block) finish(rows, first_row, std::min(tile_rows, count - first_row));
    }
  }
}

QueryRow RowBlockPass::query_row(const Rows& rows, std::int64_t r) const {
  const std::int64_t row = rows.first + r;
  const std::int64_t q_index = row / sizes_.group_size;
  const std::int64_t q_head = rows.place.kv_head * sizes_.group_size + row % sizes_.group_size;
  return {rows.place.batch, q_head, rows.place.kv_head, q_index, rows.place.sight.position(q_index)};
}

/// Sets the rows' states to the identity and finds their queries: where they lie, if at one stride in words, else gathered.
void RowBlockPass::start(const Rows& rows) {
  std::fill_n(scratch_.out, rows.count * prepared_.blocking.value_width, 0.f);
  std::fill_n(scratch_.row_max, rows.count, minus_infinity);
  std::fill_n(scratch_.row_sum, rows.count, 0.f);

  const auto row_of_query = [&](std::int64_t r) {
    const QueryRow query = query_row(rows, r);
    return row_of(tensors_.q, query.batch, query.q_head, query.q_index);
  };
  const Row first = row_of_query(0);
  const std::int64_t per_word = prepared_.blocking.per_word, key_words = prepared_.blocking.key_words;
  if (sizes_.group_size == 1 && !score_matmul_ && lie_in_words(first, sizes_.head_dim, per_word, tensors_.q.strides[2])) {
    queries_ = first.floats();
    query_stride_ = tensors_.q.strides[2] / per_word;
    return;
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_words(row_of_query(r), sizes_.head_dim, per_word, kernels_, scratch_.queries + r * key_words);
  }
  queries_ = scratch_.queries;
  query_stride_ = key_words;
}

KeyRange RowBlockPass::block_keys(std::int64_t block) const {
  return {block * prepared_.blocking.kv_block, (block + 1) * prepared_.blocking.kv_block};
}

/// The next tile's queries before its first block of keys, this tile's outputs before its last, and a share of the K and V of
/// the head that this thread will probably take next.
void RowBlockPass::look_ahead(const Rows& rows, std::int64_t first_row, std::int64_t block) {
  ahead_.clear();
  const std::int64_t next_row = first_row + tile_rows, end = std::min(next_row, rows.count);
  const HeadPlace& place = rows.place;
  if (sizes_.group_size == 1 && block == rows.first_block) {
    const std::int64_t next_end = std::min(next_row + tile_rows, rows.count);
    ahead_.add(tensors_.q, place.batch, place.kv_head, rows.first + next_row, rows.first + next_end);
  }
  if (sizes_.group_size == 1 && block == rows.last_block) {
    ahead_.add(tensors_.out, place.batch, place.kv_head, rows.first + first_row, rows.first + end);
  }
  if (!rows.next_head) return;
  const std::int64_t rows_before = (block - rows.first_block) * rows.count;
  const std::int64_t rows_in_all = (rows.last_block - rows.first_block + 1) * rows.count;
  const KeyRange share{sizes_.kv_len * (rows_before + first_row) / rows_in_all, sizes_.kv_len * (rows_before + end) / rows_in_all};
  ahead_.add(tensors_.k, rows.next_head->batch, rows.next_head->kv_head, share.begin, share.end);
  ahead_.add(tensors_.v, rows.next_head->batch, rows.next_head->kv_head, share.begin, share.end);
}

/// Whether a matmul primitive of q_block x kv_block scores fits: all rows there, and all see all keys of the block.
bool RowBlockPass::whole_block(const Rows& rows, std::int64_t block) const {
  return rows.count == prepared_.blocking.q_block && intersection(rows.seen_by_all, block_keys(block)) == block_keys(block);
}

void RowBlockPass::take_tile(const Rows& rows, std::int64_t first_row, std::int64_t block, const PackedHead& packed, bool scores_made) {
  Tile tile = tile_of(rows, first_row, block_keys(block));
  if (tile.hull.empty()) return;
  look_at_masks(tile);
  if (tile.hull.empty()) return;
  if (scores_made) {
    tile.score_stride = prepared_.blocking.kv_block;
    tile.scores = scratch_.score_tile + first_row * tile.score_stride;
  } else {
    make_scores(tile, packer_.keys(packed, block, round_down(tile.hull.begin, kernels_.panel_width)));
  }
  transform(tile);
  const bool finite = packed.finite[block];
  if (!finite) note_visible(tile);
  add_values(tile, packed, block);
  if (!finite) add_non_finite_values(tile);
}

RowBlockPass::Tile RowBlockPass::tile_of(const Rows& rows, std::int64_t first_row, KeyRange keys) const {
  Tile tile;
  tile.block_rows = &rows;
  tile.block_begin = keys.begin;
  tile.first_row = first_row;
  tile.rows = std::min(tile_rows, rows.count - first_row);
  const KeyRange any = intersection(rows.seen_by_any, keys);
  tile.alike = any == intersection(rows.seen_by_all, keys);
  if (tile.alike) {
    tile.hull = {any.begin - keys.begin, any.end - keys.begin};
    std::fill_n(tile.begin, tile_rows, tile.hull.begin);
    std::fill_n(tile.end, tile_rows, tile.hull.end);
    return tile;
  }
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t q_index = (rows.first + first_row + r) / sizes_.group_size;
    const KeyRange seen = intersection(rows.place.sight.of(q_index), keys);
    tile.begin[r] = seen.begin - keys.begin;
    tile.end[r] = seen.end - keys.begin;
  }
  tile.update_hull();
  return tile;
}

void RowBlockPass::Tile::update_hull() {
  hull = {std::numeric_limits<std::int64_t>::max(), 0};
  for (std::int64_t r = 0; r < rows; ++r) {
    if (!range(r).empty()) hull = {std::min(hull.begin, range(r).begin), std::max(hull.end, range(r).end)};
  }
}

/// Reads the dense masks before any score is made: a row that sees nothing of the block loses its range.
void RowBlockPass::look_at_masks(Tile& tile) {
  if (!row_scores_.additive() && !row_scores_.dense_visibility()) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange keys = tile.keys(r);
    if (keys.empty()) continue;
    const QueryRow query = query_row(tile, r);
    bool nothing_seen = false;
    if (row_scores_.additive()) {
      const float* mask = row_scores_.additive_mask(query, keys, scratch_.mask_rows + r * prepared_.blocking.kv_block);
      tile.mask[r] = mask;
      nothing_seen = hides_all(mask, keys.size());
    }
    if (row_scores_.dense_visibility()) {
      const std::int64_t seen = row_scores_.visibility(query, keys, visible(r));
      tile.hides[r] = seen < keys.size();
      nothing_seen |= seen == 0;
    }
    if (nothing_seen) tile.end[r] = tile.begin[r];
  }
  tile.alike = false;
  tile.update_hull();
}

/// From the panel on in which the first visible key lies, to the last in whole vectors.
void RowBlockPass::make_scores(Tile& tile, const kernels::Panels& keys) {
  tile.scores = scratch_.scores;
  tile.score_stride = score_stride(prepared_.blocking);
  const std::int64_t first = round_down(tile.hull.begin, kernels_.panel_width);
  // Scores that are neither transformed nor hidden have their maxima taken while they are in registers.
  const bool final = tile.alike && !row_scores_.transforms() && tile.hull.begin == first && tile.hull.end % arithmetic_.chunk_keys == 0;
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
      .columns = tile.hull.end - first,
      .depth = prepared_.blocking.key_words,
      .accumulate = false,
      .maxima = maxima,
      .ahead = ahead_.walk(),
  });
}

void RowBlockPass::transform(Tile& tile) {
  if (!row_scores_.transforms() && !row_scores_.dense_visibility()) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    if (range.empty()) continue;
    float* run = tile.row(r) + range.begin;
    if (row_scores_.transforms()) row_scores_.transform(query_row(tile, r), tile.keys(r), tile.mask[r], run);
    if (tile.hides[r]) kernels_.hide(run, range.size(), visible(r));
  }
}

void RowBlockPass::add_values(const Tile& tile, const PackedHead& packed, std::int64_t block) {
  const std::int64_t value_width = prepared_.blocking.value_width;
  const std::int64_t first = round_down(tile.hull.begin, arithmetic_.chunk_keys);
  arithmetic_.online_softmax({
      .scores = tile.scores,
      .stride = tile.score_stride,
      .rows = tile.rows,
      .begin = tile.begin,
      .end = tile.end,
      .first = first,
      .last = round_up(tile.hull.end, arithmetic_.chunk_keys),
      .scale = row_scores_.remaining_scale() * log2e,
      .maxima = tile.maxima,
      .row_max = scratch_.row_max + tile.first_row,
      .row_sum = scratch_.row_sum + tile.first_row,
      .values = packer_.values(packed, block, first),
      .value_end = tile.hull.end,
      .out = scratch_.out + tile.first_row * value_width,
      .out_stride = value_width,
      .columns = value_width,
  });
}

// Packed values that are not finite became 0, or 0 * NaN would carry hidden ones into O. The visible ones are added here, one
// by one: the only place where a weight has to know whether its key was hidden or merely weighs 0.

void RowBlockPass::note_visible(const Tile& tile) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    for (std::int64_t j = range.begin; j < range.end; ++j) visible(r)[j] = tile.row(r)[j] != minus_infinity;
  }
}

float RowBlockPass::weight(const Tile& tile, std::int64_t r, std::int64_t j) const {
  if (prepared_.blocking.per_word == 1) return tile.row(r)[j];
  float value = 0;
  kernels_.widen_bf16(reinterpret_cast<const std::uint16_t*>(tile.row(r)) + j, 1, &value);
  return value;
}

void RowBlockPass::add_non_finite_values(const Tile& tile) {
  const QueryRow query = query_row(tile, 0);
  for (std::int64_t j = tile.hull.begin; j < tile.hull.end; ++j) {
    const float* value = as_floats(row_of(tensors_.v, query.batch, query.kv_head, tile.block_begin + j), sizes_.v_head_dim, kernels_,
                                   scratch_.staging);
    for (std::int64_t n = 0; n < sizes_.v_head_dim; ++n) {
      if (std::isfinite(value[n])) continue;
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const bool seen = j >= tile.range(r).begin && j < tile.range(r).end && visible(r)[j];
        if (seen) scratch_.out[(tile.first_row + r) * prepared_.blocking.value_width + n] += weight(tile, r, j) * value[n];
      }
    }
  }
}

/// Divides by the sum, which the sink joins, and writes O and lse.
void RowBlockPass::finish(const Rows& rows, std::int64_t first_row, std::int64_t count) {
  for (std::int64_t r = first_row; r < first_row + count; ++r) {
    const QueryRow query = query_row(rows, r);
    const double maximum = static_cast<double>(scratch_.row_max[r]) * row_scores_.remaining_scale();
    const double sum = scratch_.row_sum[r];
    const bool nothing_seen = sum == 0;
    double sink = minus_infinity;
    if (!tensors_.sinks.absent()) sink = static_cast<const float*>(tensors_.sinks.data)[query.q_head * tensors_.sinks.strides[0]];

    const double with_sink = nothing_seen ? 1 : sum + (sink == minus_infinity ? 0 : std::exp(sink - maximum));
    const auto factor = static_cast<float>(1 / with_sink);
    float* out = scratch_.out + r * prepared_.blocking.value_width;
    const Row to = row_of(tensors_.out, query.batch, query.q_head, query.q_index);
    if (to.dense_f32()) {
      kernels_.scale(out, sizes_.v_head_dim, factor, to.floats());
    } else {
      kernels_.scale(out, sizes_.v_head_dim, factor, out);
      write_row(out, sizes_.v_head_dim, kernels_, to);
    }
    if (tensors_.lse.absent()) continue;
    const double lse = nothing_seen || std::isinf(with_sink) ? sink : maximum + std::log(with_sink);
    const Dims& strides = tensors_.lse.strides;
    static_cast<float*>(tensors_.lse.data)[query.batch * strides[0] + query.q_head * strides[1] + query.q_index * strides[2]] =
        static_cast<float>(lse);
  }
}

}  // namespace attn
