// For all rows of one KV head at once:
//
//   Q^T becomes panels, with the rows side by side
//   for each block of keys that any of the rows sees
//     S^T = K Q^T                    6-key micro-kernel, K in place;
//                                    prefetches V of the block and K of the next
//     S = (S^T)^T                    in registers
//     V of the block                 becomes panels, or is read in place
//     for each tile of 6 rows
//       transform the rows           only if there is something to do
//       online softmax, O += P V     as in prefill.cpp
//
// A key comes from memory once for all rows. Both products run at the rate of the micro-kernel; the
// transposition takes about as long as 10 of the head_dim + v_head_dim multiply-adds of a score.
// The sums of a row have the order that prefill.cpp gives them, so the bits are the same wherever
// the keys are not split.
#include "attention/blockwise.hpp"

#include <algorithm>

#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

}  // namespace

BlockwisePass::BlockwisePass(const CallContext& context, const Packer& packer,
                             const ThreadScratch& scratch)
    : context_(context),
      packer_(packer),
      scratch_(scratch),
      tiles_(context, context.plan().packed, scratch),
      values_(context, packer, scratch.staging) {}

bool BlockwisePass::compute_part(const HeadQueries& head, KeyRange among,
                                 const SoftmaxStates& states, const NextKeys& next) {
  next_ = next;
  const QueryBlock rows = tiles_.unhidden_block_of(head, 0, head.rows, among);
  const std::int64_t width = blocking().value_width;
  set_identity(states, rows.count, width);
  if (rows.last_block < rows.first_block) return false;
  read_queries(rows, 0, rows.count);
  const std::int64_t step = rows_of_a_tile(rows.count);
  bool finite = true;
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    if (!tiles_.sees(rows, block)) continue;
    const KeyRange keys = intersection(rows.visible_to_any, tiles_.block_keys(block));
    plan_prefetch(rows, keys);
    compute_scores(head, block, keys);
    const Packer::Keys chunks = in_chunks(head, keys);
    const PackedHead& values = scratch_.block_values;
    const std::int64_t at = chunks.first - tiles_.block_keys(block).begin;
    values.finite[0] =
        packer_.pack_values(chunks, 0, at, values, scratch_.staging) && scales_are_good_;
    finite &= values.finite[0] != 0;
    for (std::int64_t r = 0; r < rows.count; r += step) {
      QueryTile tile = tiles_.tile_of(rows, r, std::min(step, rows.count - r), block);
      if (tile.visible_range.empty()) continue;
      tile.score_stride = score_stride(blocking());
      tile.scores = scratch_.scores + r * tile.score_stride;
      tiles_.transform(tile);
      values_.add(tile, values, 0, states.from(r, width));
    }
  }
  return !finite;
}

void BlockwisePass::finish(const HeadQueries& head, bool tiny_values) {
  tiles_.finish(tiles_.block_of(head, 0, head.rows, all_keys), 0, head.rows, scratch_.states, *this,
                tiny_values && blocking().vnni_factor == 2);
}

QueryTile BlockwisePass::probabilities_of(const QueryBlock& rows, std::int64_t r,
                                          std::int64_t block) {
  QueryTile tile = tiles_.tile_of(rows, r, 1, block);
  if (tile.visible_range.empty()) return tile;
  prefetch_.clear();
  read_queries(rows, r, 1);
  compute_scores(rows.head, block, intersection(rows.visible_to_any, tiles_.block_keys(block)));
  tile.score_stride = score_stride(blocking());
  tile.scores = scratch_.scores;
  tiles_.transform(tile);
  exponentiate(tile, scratch_.states.row_max[r], context_.scores.remaining_scale());
  return tile;
}

/// Panels are as even as whole vectors allow.
void BlockwisePass::read_queries(const QueryBlock& rows, std::int64_t first_row,
                                 std::int64_t count) {
  const std::int64_t depth = blocking().key_depth, vector = context_.kernels().vector_width;
  const std::int64_t panel =
      round_up(divide_up(count, divide_up(count, context_.plan().panel_width)), vector);
  const kernels::PanelLayout layout{panel, depth * panel, panel};
  for (std::int64_t r = 0; r < count; ++r) {
    read_packed(tiles_.query(rows, first_row + r), context_.sizes().head_dim,
                blocking().vnni_factor, context_.kernels(), scratch_.queries + r * depth);
  }
  for (std::int64_t first = 0; first < count; first += panel) {
    context_.kernels().pack_transposed(scratch_.queries + first * depth, depth,
                                       std::min(panel, count - first), depth,
                                       scratch_.query_panels + first * depth, panel);
  }
  queries_ = {scratch_.query_panels, layout};
  num_queries_ = count;
}

/// The keys of a block from the chunk of the first one on: a chunk must not begin with what another
/// block left.
Packer::Keys BlockwisePass::in_chunks(const HeadQueries& head, KeyRange keys) const {
  const std::int64_t first = round_down(keys.begin, context_.call.packed_arithmetic->chunk_keys);
  return {head.batch, head.kv_head, first, keys.end - first};
}

/// Writes the scores of the queries that were read against keys of a block.
void BlockwisePass::compute_scores(const HeadQueries& head, std::int64_t block, KeyRange keys) {
  const std::int64_t most = context_.plan().transposed_keys, begin = tiles_.block_keys(block).begin;
  const std::int64_t columns = round_up(num_queries_, context_.kernels().vector_width);
  const std::int64_t stride = score_stride(blocking());
  float* const scores = scratch_.scores - begin;  // by key
  for (std::int64_t first = keys.begin; first < keys.end;) {
    const KeySpan span =
        context_.layout.keys(head.batch, head.kv_head, first, std::min(most, keys.end - first));
    // Few keys of a page are gathered with those of the next ones.
    const std::int64_t count =
        span.count >= 2 * tile_rows ? span.count : std::min(most, keys.end - first);
    multiply(packer_.key_operands({head.batch, head.kv_head, first, count}, scratch_.staging),
             count);
    context_.kernels().pack_transposed(scratch_.transposed_scores, columns, count, columns,
                                       scores + first, stride);
    first += count;
  }
  const Packer::Keys chunks = in_chunks(head, keys);
  scales_are_good_ = packer_.pack_scales(chunks, 0, chunks.first - begin, scratch_.block_values);
  if (!context_.plan().scaled()) return;
  const float* const scales = scratch_.block_values.key_scales - begin;
  for (std::int64_t r = 0; r < num_queries_; ++r) {
    context_.kernels().multiply(scores + r * stride + keys.begin, keys.size(), scales + keys.begin);
  }
}

/// S^T of `count` keys.
void BlockwisePass::multiply(const Packer::Operands& keys, std::int64_t count) {
  const std::int64_t stride = keys.stride / blocking().vnni_factor;
  const std::int64_t columns = round_up(num_queries_, context_.kernels().vector_width);
  const auto* const first = static_cast<const float*>(keys.rows);
  for (std::int64_t key = 0; key < count; key += tile_rows) {
    context_.call.packed_arithmetic->matmul({
        .a = first + key * stride,
        .a_stride = stride,
        .b = queries_,
        .c = scratch_.transposed_scores + key * columns,
        .c_stride = columns,
        .rows = std::min(tile_rows, count - key),
        .columns = columns,
        .depth = blocking().key_depth,
        .accumulate = false,
        .maxima = nullptr,
        .prefetch = prefetch_.walk(),
    });
  }
}

/// The values of these keys, and the keys that come next.
void BlockwisePass::plan_prefetch(const QueryBlock& rows, KeyRange keys) {
  prefetch_.clear();
  const HeadQueries& head = rows.head;
  const KvLayout& layout = context_.layout;
  const KeySpan span = layout.keys(head.batch, head.kv_head, keys.begin, keys.size());
  prefetch_.add(span.first_value, span.value_stride, context_.sizes().v_head_dim, span.count);
  NextKeys ahead{head.batch, head.kv_head, {keys.end, rows.visible_to_any.end}};
  if (ahead.keys.empty()) ahead = next_;
  if (ahead.keys.empty()) return;
  const KeySpan next = layout.keys(ahead.batch, ahead.kv_head, ahead.keys.begin,
                                   std::min(keys.size(), ahead.keys.size()));
  prefetch_.add(next.first_key, next.key_stride, context_.sizes().head_dim, next.count);
}

}  // namespace attn::detail
