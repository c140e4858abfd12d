// For each tile of up to 6 rows:
//
//   for each block of keys that any of the rows sees
//     S = Q K^T                    6-row micro-kernel          reads  K: head_dim floats a key, 6
//     uses each transform the rows           hidden keys become -inf
//   P = normaliser of each row     all of its scores: 6 x kv_len floats, which a long row keeps in
//   L2 for each block of keys
//     O += P V                     the same micro-kernel       reads  V: v_head_dim floats a key
//     that any of the rows weighs
//
// K and V come once for 6 rows, not for a whole block of them, from L2 or beyond: tau of a row is
// known only when all of its keys have been seen, and the scores of more rows would take the cache
// from K. What weighs nothing is not multiplied, so sparse weights pay for their normaliser with
// the second half of the multiplications.
#include "attention/normalised_rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "attention/row_weights.hpp"
#include "kernels/rows.hpp"

namespace attn {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Keys whose values are left out together, if none of them weighs anything.
constexpr std::int64_t skip_keys = 32;

}  // namespace

NormalisedRowsPass::NormalisedRowsPass(const PreparedCall& prepared, const Tensors& tensors,
                                       const BatchLayout& layout, const RowScores& row_scores,
                                       const Packer& packer, const ThreadScratch& scratch)
    : blocking_(prepared.blocking),
      sizes_(prepared.problem.sizes),
      normaliser_(prepared.problem.normaliser),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      layout_(layout),
      packer_(packer),
      scratch_(scratch),
      tiles_(prepared, blocking_, tensors, layout, row_scores, scratch),
      row_stride_(row_stride(blocking_)) {}

void NormalisedRowsPass::compute(const HeadPlace& place, std::int64_t q_block,
                                 const PackedHead& packed) {
  const std::int64_t first = q_block * blocking_.q_block;
  const std::int64_t end = std::min(first + blocking_.q_block, place.rows);
  for (std::int64_t row = first; row < end; row += tile_rows) {
    take_rows(tiles_.rows_of(place, row, std::min(tile_rows, end - row),
                             {0, std::numeric_limits<std::int64_t>::max()}),
              packed);
  }
}

void NormalisedRowsPass::take_rows(const Rows& rows, const PackedHead& packed) {
  std::fill_n(scratch_.states.out, rows.count * blocking_.value_width, 0.f);
  if (!rows.seen_by_any.empty()) {
    read_queries(rows);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      make_scores(rows, block, packed);
    for (std::int64_t r = 0; r < rows.count; ++r) normalise(rows, r);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      add_values(rows, block, packed);
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    tiles_.write(tiles_.query_row(rows, r), 1, scratch_.states.out + r * blocking_.value_width);
  }
}

void NormalisedRowsPass::read_queries(const Rows& rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_words(tiles_.query(rows, r), sizes_.head_dim, blocking_.per_word, kernels_,
               scratch_.queries + r * blocking_.key_words);
  }
}

/// What the interval masks let a row see; dense masks hide some of it.
KeyRange NormalisedRowsPass::seen_by(const Rows& rows, std::int64_t r) const {
  return rows.place.sight.of((rows.first + r) / sizes_.group_size);
}

/// Of a block's keys that lie in sight, each with a score or -inf.
void NormalisedRowsPass::make_scores(const Rows& rows, std::int64_t block,
                                     const PackedHead& packed) {
  Tile tile = tiles_.tile_of(rows, 0, rows.count, block);
  tile.scores = scratch_.scores + tile.block_begin;
  tile.score_stride = row_stride_;
  if (!tile.hull.empty()) multiply(tile, packed, block);
  tiles_.transform(tile);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    if (!tile.range(r).empty()) continue;
    const KeyRange hidden = intersection(seen_by(rows, r), tiles_.block_keys(block));
    std::fill_n(scores(r) + hidden.begin, hidden.size(), minus_infinity);
  }
  if (packed.finite[block]) return;
  tiles_.note_visible(tile);
  scratch_.tiles[block] = tile;
}

void NormalisedRowsPass::multiply(Tile& tile, const PackedHead& packed, std::int64_t block) {
  const std::int64_t first = tile.hull.begin / kernels_.panel_width * kernels_.panel_width;
  arithmetic_.matmul({
      .a = scratch_.queries,
      .a_stride = blocking_.key_words,
      .b = packer_.keys(packed, block, first),
      .c = tile.scores + first,
      .c_stride = tile.score_stride,
      .rows = tile.rows,
      .columns = tile.hull.end - first,
      .depth = blocking_.key_words,
      .accumulate = false,
  });
}

/// Weights of all keys that the tile sees: 0 for those that the row does not.
void NormalisedRowsPass::normalise(const Rows& rows, std::int64_t r) {
  const KeyRange seen = seen_by(rows, r);
  float* const row = scores(r);
  if (!seen.empty()) {
    weigh_row(kernels_, normaliser_,
              {.scores = row + seen.begin,
               .count = seen.size(),
               .kv_len = layout_.kv_len(rows.place.batch),
               .sink = tiles_.sink(tiles_.query_row(rows, r)),
               .scratch = scratch_.row_scratch});
  }
  const KeyRange all = rows.seen_by_any;
  const KeyRange before{all.begin, std::min(seen.begin, all.end)},
      after{std::max(seen.end, all.begin), all.end};
  std::fill_n(row + before.begin, before.size(), 0.f);
  std::fill_n(row + after.begin, after.size(), 0.f);
}

/// Whether any row of the tile gives any of the keys a weight.
bool NormalisedRowsPass::weighs(const Rows& rows, KeyRange keys) const {
  std::uint32_t bits = 0;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float* const row = scores(r);
    for (std::int64_t n = keys.begin; n < keys.end; ++n)
      bits |= std::bit_cast<std::uint32_t>(row[n]);
  }
  return bits != 0;
}

/// Values of runs of keys that weigh something.
void NormalisedRowsPass::add_values(const Rows& rows, std::int64_t block,
                                    const PackedHead& packed) {
  const std::int64_t block_begin = tiles_.block_keys(block).begin,
                     value_width = blocking_.value_width;
  const KeyRange keys = intersection(rows.seen_by_any, tiles_.block_keys(block));
  const auto run_end = [&](std::int64_t begin, bool weighing) {
    while (begin < keys.end &&
           weighs(rows, {begin, std::min(begin + skip_keys, keys.end)}) == weighing)
      begin += skip_keys;
    return std::min(begin, keys.end);
  };
  for (std::int64_t begin = run_end(keys.begin, false); begin < keys.end;) {
    const std::int64_t end = run_end(begin, true);
    arithmetic_.matmul({
        .a = scratch_.scores + begin,
        .a_stride = row_stride_,
        .b = packer_.values(packed, block, begin - block_begin),
        .c = scratch_.states.out,
        .c_stride = value_width,
        .rows = rows.count,
        .columns = value_width,
        .depth = end - begin,
        .accumulate = true,
    });
    begin = run_end(end, false);
  }
  if (packed.finite[block]) return;
  // Packing made those 0.
  tiles_.add_visible_values(scratch_.tiles[block], scratch_.states.out,
                            [](float value) { return !std::isfinite(value); });
}

}  // namespace attn
