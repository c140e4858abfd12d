// For each tile of up to 6 rows:
//
//   for each block of keys that any of the rows sees
//     S = Q K^T                    6-row micro-kernel          reads  K: head_dim floats a key, 6
//     uses each transform the rows           hidden keys become -inf
//   P = normalizer of each row     all of its scores: 6 x kv_len floats, which a long row keeps in
//   L2 for each block of keys
//     O += P V                     the same micro-kernel       reads  V: v_head_dim floats a key
//     that any of the rows weighs
//
// K and V come once for 6 rows, not for a whole block of them, from L2 or beyond: tau of a row is
// known only when all of its keys have been seen, and the scores of more rows would take the cache
// from K. What weighs nothing is not multiplied, so sparse weights pay for their normalizer with
// the second half of the multiplications.
#include "attention/full_rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "attention/probabilities.hpp"
#include "iterate/row.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Keys whose values are left out together, if none of them weighs anything.
constexpr std::int64_t skip_keys = 32;

}  // namespace

FullRowPass::FullRowPass(const PreparedCall& prepared, const AttentionTensors& tensors,
                         const KvLayout& layout, const RowScores& row_scores, const Packer& packer,
                         const ThreadScratch& scratch)
    : blocking_(prepared.blocking),
      sizes_(prepared.problem.sizes),
      normalizer_(prepared.problem.normalizer),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      layout_(layout),
      packer_(packer),
      scratch_(scratch),
      tiles_(prepared, blocking_, tensors, layout, row_scores, scratch),
      row_stride_(row_stride(blocking_)) {}

void FullRowPass::compute(const HeadQueries& place, std::int64_t q_block,
                          const PackedHead& packed) {
  const std::int64_t first = q_block * blocking_.q_block;
  const std::int64_t end = std::min(first + blocking_.q_block, place.rows);
  for (std::int64_t row = first; row < end; row += tile_rows) {
    take_rows(tiles_.rows_of(place, row, std::min(tile_rows, end - row),
                             {0, std::numeric_limits<std::int64_t>::max()}),
              packed);
  }
}

void FullRowPass::take_rows(const QueryBlock& rows, const PackedHead& packed) {
  std::fill_n(scratch_.states.out, rows.count * blocking_.value_width, 0.f);
  if (!rows.visible_to_any.empty()) {
    read_queries(rows);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      make_scores(rows, block, packed);
    for (std::int64_t r = 0; r < rows.count; ++r) normalize(rows, r);
    for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block)
      add_values(rows, block, packed);
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    tiles_.write(tiles_.query_row(rows, r), 1, scratch_.states.out + r * blocking_.value_width);
  }
}

void FullRowPass::read_queries(const QueryBlock& rows) {
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_packed(tiles_.query(rows, r), sizes_.head_dim, blocking_.vnni_factor, kernels_,
                scratch_.queries + r * blocking_.key_depth);
  }
}

/// What the interval masks let a row see; dense masks hide some of it.
KeyRange FullRowPass::seen_by(const QueryBlock& rows, std::int64_t r) const {
  return rows.place.sight.of((rows.first + r) / sizes_.group_size);
}

/// Of a block's keys that lie in sight, each with a score or -inf.
void FullRowPass::make_scores(const QueryBlock& rows, std::int64_t block,
                              const PackedHead& packed) {
  QueryTile tile = tiles_.tile_of(rows, 0, rows.count, block);
  tile.scores = scratch_.scores + tile.block_begin;
  tile.score_stride = row_stride_;
  if (!tile.visible_range.empty()) multiply(tile, packed, block);
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

void FullRowPass::multiply(QueryTile& tile, const PackedHead& packed, std::int64_t block) {
  const std::int64_t first = tile.visible_range.begin / kernels_.panel_width * kernels_.panel_width;
  arithmetic_.matmul({
      .a = scratch_.queries,
      .a_stride = blocking_.key_depth,
      .b = packer_.keys(packed, block, first),
      .c = tile.scores + first,
      .c_stride = tile.score_stride,
      .rows = tile.rows,
      .columns = tile.visible_range.end - first,
      .depth = blocking_.key_depth,
      .accumulate = false,
  });
}

/// Weights of all keys that the tile sees: 0 for those that the row does not.
void FullRowPass::normalize(const QueryBlock& rows, std::int64_t r) {
  const KeyRange seen = seen_by(rows, r);
  float* const row = scores(r);
  if (!seen.empty()) {
    weigh_row(kernels_, normalizer_,
              {.scores = row + seen.begin,
               .count = seen.size(),
               .kv_len = layout_.kv_len(rows.place.batch),
               .sink = tiles_.sink(tiles_.query_row(rows, r)),
               .scratch = scratch_.row_scratch});
  }
  const KeyRange all = rows.visible_to_any;
  const KeyRange before{all.begin, std::min(seen.begin, all.end)},
      after{std::max(seen.end, all.begin), all.end};
  std::fill_n(row + before.begin, before.size(), 0.f);
  std::fill_n(row + after.begin, after.size(), 0.f);
}

/// Whether any row of the tile gives any of the keys a weight.
bool FullRowPass::weighs(const QueryBlock& rows, KeyRange keys) const {
  std::uint32_t bits = 0;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float* const row = scores(r);
    for (std::int64_t n = keys.begin; n < keys.end; ++n)
      bits |= std::bit_cast<std::uint32_t>(row[n]);
  }
  return bits != 0;
}

/// Values of runs of keys that weigh something.
void FullRowPass::add_values(const QueryBlock& rows, std::int64_t block, const PackedHead& packed) {
  const std::int64_t block_begin = tiles_.block_keys(block).begin,
                     value_width = blocking_.value_width;
  const KeyRange keys = intersection(rows.visible_to_any, tiles_.block_keys(block));
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

}  // namespace attn::detail
