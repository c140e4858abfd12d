// For a block of rows of one KV head:
//
//   for each block of keys that any of the rows sees     (its K and V stay in L2)
//     for each tile of 6 rows                            (its scores stay in L1)
//       find the ranges of visible keys                  skip the tile if they are empty
//       S = Q K^T                                        6-row micro-kernel: reads K, head_dim
//                                                        floats a key, for 6 uses
//       transform the rows                               only if there is something to do
//       online softmax of S                              rescales the rows of O whose maximum grew
//       O += P V                                         the same micro-kernel: reads V,
//                                                        v_head_dim floats a key, for 6 uses
//   O /= row_sum
//
// A score costs 2 * (head_dim + v_head_dim) flops and reads (head_dim + v_head_dim) * 4 / 6 bytes
// from L2: for dims of 64, 85 bytes in at least 8 cycles of multiply-adds. From memory beyond L2
// each key is read once for q_block rows.
#include "attention/prefill.hpp"

#include <algorithm>
#include <limits>

#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

}  // namespace

PrefillPass::PrefillPass(const CallContext& context, const Packer& packer,
                         const ThreadScratch& scratch)
    : context_(context),
      packer_(packer),
      scratch_(scratch),
      tiles_(context, context.plan().packed, scratch),
      values_(context, packer, scratch.staging),
      whole_tiles_(context, packer, scratch) {}

void PrefillPass::compute(const HeadQueries& head, std::int64_t q_block, const PackedHead& packed,
                          const std::optional<HeadIndex>& next_head) {
  const Blocking& blocking = context_.plan().packed;
  const std::int64_t first = q_block * blocking.q_block;
  const std::int64_t count = std::min(blocking.q_block, head.rows - first);
  const QueryBlock rows = tiles_.unhidden_block_of(head, first, count, all_keys);
  set_identity(scratch_.states, count, blocking.value_width);
  if (rows.last_block < rows.first_block)
    return tiles_.finish(rows, 0, count, scratch_.states, *this);
  packed_ = &packed;
  find_queries(rows);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    if (!tiles_.sees(rows, block)) continue;
    const std::int64_t multiplied = whole_tiles_.keys_of(rows, block);
    if (multiplied > 0) process_whole_tile(rows, block, multiplied, next_head);
    for (std::int64_t first_row = 0; first_row < count; first_row += tile_rows) {
      plan_prefetch(rows, first_row, block, next_head);
      process_tile(rows, first_row, block, multiplied);
      if (block == rows.last_block) {
        tiles_.finish(rows, first_row, std::min(tile_rows, count - first_row), scratch_.states,
                      *this, tiny_values(rows));
      }
    }
  }
}

/// Queries are multiplied in place if they lie at one stride as packed operands; else they are
/// gathered.
void PrefillPass::find_queries(const QueryBlock& rows) {
  const Sizes& sizes = context_.sizes();
  const Blocking& blocking = context_.plan().packed;
  const std::int64_t vnni_factor = blocking.vnni_factor, key_depth = blocking.key_depth;
  const Row first = tiles_.query(rows, 0);
  const std::int64_t stride = context_.layout.query_stride();
  const bool as_onednn_needs = stride == key_depth * vnni_factor && WholeTiles::takes(rows.count);
  if (sizes.group_size == 1 && (context_.plan().onednn_rows == 0 || as_onednn_needs) &&
      is_packed(first, sizes.head_dim, vnni_factor, stride)) {
    queries_ = first.floats();
    query_stride_ = stride / vnni_factor;
    return;
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_packed(tiles_.query(rows, r), sizes.head_dim, vnni_factor, context_.kernels(),
                scratch_.queries + r * key_depth);
  }
  queries_ = scratch_.queries;
  query_stride_ = key_depth;
  if (context_.plan().onednn_rows > 0) {
    const std::int64_t padding = round_up(rows.count, onednn_row_step) - rows.count;
    std::fill_n(scratch_.queries + rows.count * key_depth, padding * key_depth, 0.f);
  }
}

/// Prefetches the queries of the next tile before its first block of keys, the outputs of this tile
/// before its last, and a share of the K and V of the head that this thread will probably compute
/// next.
void PrefillPass::plan_prefetch(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                                const std::optional<HeadIndex>& next_head) {
  prefetch_.clear();
  const Sizes& sizes = context_.sizes();
  const KvLayout& layout = context_.layout;
  const HeadQueries& head = rows.head;
  const std::int64_t next_row = first_row + tile_rows, end = std::min(next_row, rows.count);
  if (sizes.group_size == 1 && block == rows.first_block && next_row < rows.count) {
    prefetch_.add(layout.query(head.batch, head.kv_head, rows.first + next_row),
                  layout.query_stride(), sizes.head_dim,
                  std::min(tile_rows, rows.count - next_row));
  }
  if (sizes.group_size == 1 && block == rows.last_block) {
    prefetch_.add(layout.output(head.batch, head.kv_head, rows.first + first_row),
                  layout.output_stride(), sizes.v_head_dim, end - first_row);
  }
  if (!next_head) return;
  const std::int64_t kv_len = layout.kv_len(next_head->batch);
  const std::int64_t rows_before = (block - rows.first_block) * rows.count;
  const std::int64_t rows_in_all = (rows.last_block - rows.first_block + 1) * rows.count;
  const KeyRange share{kv_len * (rows_before + first_row) / rows_in_all,
                       kv_len * (rows_before + end) / rows_in_all};
  if (share.empty()) return;
  const KeySpan keys = layout.keys(next_head->batch, next_head->kv_head, share.begin, share.size());
  prefetch_.add(keys.first_key, keys.key_stride, sizes.head_dim, keys.count);
  prefetch_.add(keys.first_value, keys.value_stride, sizes.v_head_dim, keys.count);
}

void PrefillPass::process_whole_tile(const QueryBlock& rows, std::int64_t block, std::int64_t keys,
                                     const std::optional<HeadIndex>& next_head) {
  const std::int64_t value_width = context_.plan().packed.value_width;
  const KeyRange multiplied{0, tiles_.block_keys(block).begin + keys};
  whole_tiles_.multiply_keys(rows, block, keys, *packed_, queries_);
  for (std::int64_t first_row = 0; first_row < rows.count; first_row += tile_rows) {
    plan_prefetch(rows, first_row, block, next_head);
    prefetch_.fetch();
    QueryTile tile = tiles_.tile_of(rows, first_row, std::min(tile_rows, rows.count - first_row),
                                    block, multiplied);
    whole_tiles_.find_scores(tile);
    if (!tile.visible_range.empty()) tiles_.transform(tile);
    whole_tiles_.exponentiate(tile, *packed_, block, scratch_.states.from(first_row, value_width));
  }
  whole_tiles_.multiply_values(*packed_, block, scratch_.states.out);
}

/// The keys of the block from first_key on.
void PrefillPass::process_tile(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                               std::int64_t first_key) {
  const Blocking& blocking = context_.plan().packed;
  const KeyRange keys{tiles_.block_keys(block).begin + first_key, rows.visible_to_any.end};
  if (first_key > 0 && keys.empty()) return;
  QueryTile tile = tiles_.tile_of(rows, first_row, std::min(tile_rows, rows.count - first_row),
                                  block, {keys.begin, all_keys.end});
  if (tile.visible_range.empty()) return;
  compute_scores(tile, block);
  tiles_.transform(tile);
  values_.add(tile, *packed_, block, scratch_.states.from(first_row, blocking.value_width));
}

bool PrefillPass::may_have_tiny_values(std::int64_t block) const {
  return !packed_->is_finite(block);
}

/// Whether values of the rows' keys are tiny, or not finite, which is found out here together.
bool PrefillPass::tiny_values(const QueryBlock& rows) const {
  if (context_.plan().packed.vnni_factor == 1) return false;
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    if (may_have_tiny_values(block)) return true;
  }
  return false;
}

QueryTile PrefillPass::probabilities_of(const QueryBlock& rows, std::int64_t r,
                                        std::int64_t block) {
  QueryTile tile = tiles_.tile_of(rows, r, 1, block);
  if (tile.visible_range.empty()) return tile;
  prefetch_.clear();
  compute_scores(tile, block);
  tiles_.transform(tile);
  exponentiate(tile, scratch_.states.row_max[r], context_.scores.remaining_scale());
  return tile;
}

/// The scores begin with the chunk of the first visible key and end with a whole vector. Of a panel
/// that begins before, the rest is multiplied by itself.
void PrefillPass::compute_scores(QueryTile& tile, std::int64_t block) {
  const std::int64_t panel = context_.plan().panel_width;
  const std::int64_t chunk = context_.call.packed_arithmetic->chunk_keys;
  const KeyRange keys{round_down(tile.visible_range.begin, chunk), tile.visible_range.end};
  tile.scores = scratch_.scores;
  tile.score_stride = score_stride(context_.plan().packed);
  // If scores are neither transformed nor hidden, their maxima are taken while they are in
  // registers.
  const bool final = tile.full && !context_.scores.transforms() && !context_.plan().scaled() &&
                     tile.visible_range.begin == keys.begin && keys.end % chunk == 0;
  float* const maxima = final ? scratch_.maxima : nullptr;
  if (final) std::fill_n(maxima, kernels::max_vector_width * tile_rows, minus_infinity);
  tile.maxima = maxima;
  const std::int64_t next_panel = std::min(round_up(keys.begin, panel), keys.end);
  if (keys.begin < next_panel) multiply(tile, block, {keys.begin, next_panel});
  if (next_panel < keys.end) multiply(tile, block, {next_panel, keys.end});
  if (!context_.plan().scaled()) return;
  const float* const scales = packed_->key_scales + block * context_.plan().packed.kv_block;
  for (std::int64_t r = 0; r < tile.rows; ++r)
    context_.kernels().multiply(tile.row(r) + keys.begin, keys.size(), scales + keys.begin);
}

/// Keys of one panel, or whole panels and part of a last one.
void PrefillPass::multiply(const QueryTile& tile, std::int64_t block, KeyRange keys) {
  const Blocking& blocking = context_.plan().packed;
  const std::int64_t panel_begin = round_down(keys.begin, context_.plan().panel_width);
  kernels::Panels panels = packer_.keys(*packed_, block, panel_begin);
  panels.data += keys.begin - panel_begin;
  context_.call.packed_arithmetic->matmul({
      .a = queries_ + tile.first_row * query_stride_,
      .a_stride = query_stride_,
      .b = panels,
      .c = tile.scores + keys.begin,
      .c_stride = tile.score_stride,
      .rows = tile.rows,
      .columns = keys.size(),
      .depth = blocking.key_depth,
      .accumulate = false,
      .maxima = tile.maxima == nullptr ? nullptr : scratch_.maxima,
      .prefetch = prefetch_.walk(),
  });
}

}  // namespace attn::detail
