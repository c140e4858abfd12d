// For each tile of up to 6 rows:
//
//   for each block of keys that any of the rows sees
//     S = Q K^T                    6-row micro-kernel       reads K: head_dim floats a key, 6 uses
//     transform the rows           hidden keys become -inf
//   P = normalizer of each row     all of its scores: 6 x kv_len floats, in L2 for long rows
//   for each block of keys
//     O += P V                     the same micro-kernel    reads V: v_head_dim floats a key, where
//                                                           any of the rows has a probability
//
// Where oneDNN multiplies, it writes the scores of 32 rows first. P V stays with the micro-kernel.
//
// K and V are read once for 6 rows, not for a whole block of rows, from L2 or beyond: the threshold
// tau of a row is known only when all of its keys have been seen, and the scores of more rows would
// push K out of the cache. Keys of probability 0 are not multiplied, so sparse probabilities save
// much of the second half of the multiplications.
#include "attention/full_rows.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "attention/probabilities.hpp"
#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Keys whose values are skipped together if all their probabilities are 0.
constexpr std::int64_t skip_keys = 32;

}  // namespace

FullRowPass::FullRowPass(const CallContext& context, const Packer& packer,
                         const ThreadScratch& scratch)
    : context_(context),
      packer_(packer),
      scratch_(scratch),
      tiles_(context, context.plan().packed, scratch),
      non_finite_(context, context.plan().packed, scratch.staging),
      whole_tiles_(context, packer, scratch) {}

void FullRowPass::compute(const HeadQueries& head, std::int64_t q_block, const PackedHead& packed) {
  packed_ = &packed;
  const std::int64_t first = q_block * blocking().q_block;
  const std::int64_t end = std::min(first + blocking().q_block, head.rows);
  const std::int64_t rows_together = std::max(tile_rows, context_.plan().onednn_rows);
  for (std::int64_t row = first; row < end; row += rows_together) {
    const std::int64_t count = std::min(rows_together, end - row);
    const QueryBlock together = tiles_.block_of(head, row, count, all_keys);
    multiplied_ = &together;
    multiply_whole_tiles(together);
    for (std::int64_t r = 0; r < count; r += tile_rows) {
      scores_ = scratch_.scores + r * row_stride(blocking());
      compute_rows(tiles_.block_of(head, row + r, std::min(tile_rows, count - r), all_keys));
    }
  }
}

/// Writes the scores of those blocks of keys that oneDNN multiplies.
void FullRowPass::multiply_whole_tiles(const QueryBlock& rows) {
  if (context_.plan().onednn_rows == 0 || rows.visible_to_any.empty()) return;
  read_queries(rows);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    const std::int64_t keys = whole_tiles_.keys_of(rows, block);
    if (keys == 0) continue;
    whole_tiles_.multiply_keys(rows, block, keys, *packed_, scratch_.queries);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      std::copy_n(whole_tiles_.scores(r), keys,
                  scratch_.scores + r * row_stride(blocking()) + tiles_.block_keys(block).begin);
    }
  }
}

void FullRowPass::compute_rows(const QueryBlock& rows) {
  const std::int64_t value_width = blocking().value_width;
  std::fill_n(scratch_.states.out, rows.count * value_width, 0.f);
  if (!rows.visible_to_any.empty()) {
    read_queries(rows);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      compute_scores(rows, block);
    for (std::int64_t r = 0; r < rows.count; ++r) normalize(rows, r);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      add_values(rows, block);
  }
  tiles_.write(rows, *this, scratch_.states.out);
}

/// The probabilities of the row are still there. Those of hidden keys are 0, and need a mark only
/// where there are values whose product with 0 is not 0.
QueryTile FullRowPass::probabilities_of(const QueryBlock& rows, std::int64_t r,
                                        std::int64_t block) {
  const KeyRange block_keys = tiles_.block_keys(block);
  const KeyRange keys = intersection(seen_by(rows, r), block_keys);
  QueryTile tile;
  tile.block_rows = &rows;
  tile.block_begin = block_keys.begin;
  tile.begin[0] = keys.begin - block_keys.begin;
  tile.end[0] = keys.end - block_keys.begin;
  tile.scores = scores(r) + block_keys.begin;
  if (packed_->is_finite(block)) return tile;
  const QueryTile& noted = scratch_.tiles[block];
  for (std::int64_t j = tile.begin[0]; j < tile.end[0]; ++j) {
    const bool visible = j >= noted.begin[r] && j < noted.end[r] && noted.visible_row(r)[j];
    if (!visible) tile.scores[j] = minus_infinity;
  }
  return tile;
}

void FullRowPass::read_queries(const QueryBlock& rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_packed(tiles_.query(rows, r), context_.sizes().head_dim, blocking().vnni_factor,
                context_.kernels(), scratch_.queries + r * blocking().key_depth);
  }
}

/// The keys that the interval masks let a row see. Dense masks may hide some of them.
KeyRange FullRowPass::seen_by(const QueryBlock& rows, std::int64_t r) const {
  return rows.head.visibility.range_of((rows.first + r) / context_.sizes().group_size);
}

/// Writes the scores of a block of keys; those of hidden keys within a row's interval become -inf.
void FullRowPass::compute_scores(const QueryBlock& rows, std::int64_t block) {
  QueryTile tile = tiles_.tile_of(rows, 0, rows.count, block);
  tile.scores = scores_ + tile.block_begin;
  tile.score_stride = row_stride(blocking());
  multiply(tile, block);
  tiles_.transform(tile);
  for (std::int64_t r = 0; r < rows.count; ++r)
    hide_outside(tile, r, intersection(seen_by(rows, r), tiles_.block_keys(block)));
  if (packed_->is_finite(block)) return;
  non_finite_.note_visible(tile);
  scratch_.tiles[block] = tile;
}

void FullRowPass::multiply(QueryTile& tile, std::int64_t block) {
  const std::int64_t multiplied = whole_tiles_.keys_of(*multiplied_, block);
  const std::int64_t first =
      round_down(std::max(tile.visible_range.begin, multiplied), context_.plan().panel_width);
  if (first >= tile.visible_range.end || multiplied >= tile.visible_range.end) return;
  context_.call.packed_arithmetic->matmul({
      .a = scratch_.queries,
      .a_stride = blocking().key_depth,
      .b = packer_.keys(*packed_, block, first),
      .c = tile.scores + first,
      .c_stride = tile.score_stride,
      .rows = tile.rows,
      .columns = tile.visible_range.end - first,
      .depth = blocking().key_depth,
      .accumulate = false,
  });
}

/// Turns the scores of a row into probabilities, and those of keys that it does not see into 0.
void FullRowPass::normalize(const QueryBlock& rows, std::int64_t r) {
  const KeyRange seen = seen_by(rows, r);
  float* const row = scores(r);
  if (!seen.empty()) {
    normalize_row(context_.kernels(), context_.call.problem.normalizer,
                  {.scores = row + seen.begin,
                   .count = seen.size(),
                   .kv_len = context_.layout.kv_len(rows.head.batch),
                   .sink = tiles_.sink(tiles_.query_row(rows, r)),
                   .scratch = scratch_.row_scratch});
  }
  const KeyRange all = rows.visible_to_any;
  const KeyRange before{all.begin, std::min(seen.begin, all.end)},
      after{std::max(seen.end, all.begin), all.end};
  std::fill_n(row + before.begin, before.size(), 0.f);
  std::fill_n(row + after.begin, after.size(), 0.f);
}

/// Whether any row of the tile has a probability other than 0 for any of the keys.
bool FullRowPass::any_probability(const QueryBlock& rows, KeyRange keys) const {
  std::uint32_t bits = 0;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float* const row = scores(r);
    for (std::int64_t n = keys.begin; n < keys.end; ++n)
      bits |= std::bit_cast<std::uint32_t>(row[n]);
  }
  return bits != 0;
}

/// Multiplies the values of those runs of keys that have probabilities.
void FullRowPass::add_values(const QueryBlock& rows, std::int64_t block) {
  const KeyRange block_keys = tiles_.block_keys(block);
  const std::int64_t value_width = blocking().value_width;
  const KeyRange keys = intersection(rows.visible_to_any, block_keys);
  const auto end_of_run = [&](std::int64_t begin, bool nonzero) {
    while (begin < keys.end &&
           any_probability(rows, {begin, std::min(begin + skip_keys, keys.end)}) == nonzero)
      begin += skip_keys;
    return std::min(begin, keys.end);
  };
  for (std::int64_t begin = end_of_run(keys.begin, false); begin < keys.end;) {
    const std::int64_t end = end_of_run(begin, true);
    context_.call.packed_arithmetic->matmul({
        .a = scores_ + begin,
        .a_stride = row_stride(blocking()),
        .b = packer_.values(*packed_, block, begin - block_keys.begin),
        .c = scratch_.states.out,
        .c_stride = value_width,
        .rows = rows.count,
        .columns = value_width,
        .depth = end - begin,
        .accumulate = true,
    });
    begin = end_of_run(end, false);
  }
  if (!packed_->is_finite(block)) non_finite_.add(scratch_.tiles[block], scratch_.states.out);
}

}  // namespace attn::detail
