// For one block of keys of a head:
//
//   K, V and their transposes are packed               once for all rows
//   dK = dV = 0                                        they stay in L2
//   for each block of rows that sees any of the keys   (its Q, dout, P and dS stay in L2)
//     for each tile of 6 rows                          (its S and dP stay in L1)
//       S  = Q K^T            6-row micro-kernel
//       dP = dout V^T         the same
//       S is transformed; P = exp(S - lse), dS = P (dP - delta + dlse); dS passes back
//       dQ += dS K            the same
//     dV += P^T dout          the same, with A read as its transpose: 6 keys are the rows of C
//     dK += dS^T Q            the same
//   dK and dV are scaled and rounded once
//
// The five products take 2 (3 head_dim + 2 v_head_dim) flops for a pair of a row and a key, against
// 2 (head_dim + v_head_dim) of the forward, and one exponential. A tile of C is loaded and stored
// once for a depth of 64 keys (dQ) or 48 rows (dK, dV): 48 instructions beside at least 1152
// multiply-adds. From beyond L2, a row brings Q, dout and dQ, which is also written: at dims of 64
// 1 KiB for 41,000 flops.
#include "backward/column.hpp"

#include <algorithm>
#include <cmath>

#include "attention/non_finite.hpp"
#include "backward/entmax_gradient.hpp"
#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

using kernels::tile_rows;

constexpr float log2e = 1.44269504088896341f;

/// to[n] += factor * x[n] for the x that are not finite. What is finite has been multiplied.
void add_non_finite(const float* x, std::int64_t count, float factor, float* to) {
  for (std::int64_t n = 0; n < count; ++n) {
    if (!std::isfinite(x[n])) to[n] += factor * x[n];
  }
}

}  // namespace

ColumnPass::ColumnPass(const BackwardContext& context, const ScoreSums& sums,
                       const ColumnScratch& scratch)
    : context_(context),
      sums_(sums),
      scratch_(scratch),
      tiles_(context.forward, context.blocking(), scratch.tiles),
      keys_(context, scratch),
      stride_(score_stride(context.blocking())) {}

void ColumnPass::compute(const HeadQueries& head, std::int64_t column, const Columns& columns,
                         const HeadSlot& slot, const HandOver& hand_over, const NextHeads& next) {
  const Blocking& blocking = context_.blocking();
  const std::int64_t kv_len = context_.forward.layout.kv_len(head.batch);
  const KeyRange keys = intersection(tiles_.block_keys(column), {0, kv_len});
  std::fill_n(scratch_.dk, blocking.kv_block * context_.plan.key_width, 0.f);
  std::fill_n(scratch_.dv, blocking.kv_block * blocking.value_width, 0.f);
  sums_.start_column(scratch_);
  plan_prefetch(next, column, columns);
  const std::int64_t chunk = columns.chunk_of(column);
  bool packed = false;
  for (std::int64_t n = 0; n * blocking.q_block < head.rows; ++n) {
    const std::int64_t first = n * blocking.q_block;
    const QueryBlock rows =
        tiles_.block_of(head, first, std::min(blocking.q_block, head.rows - first), all_keys);
    hand_over.wait(n);
    const std::int64_t first_column = std::max(chunk * columns.per_chunk, rows.first_block);
    const bool first_of_chunk = column == first_column;
    const bool visible = !intersection(rows.visible_to_any, keys).empty();
    if (visible && (first_of_chunk || tiles_.sees(rows, column))) {
      if (!packed) keys_.pack(head, keys);
      packed = true;
      compute_block({rows, slot, column, chunk, first_of_chunk});
    }
    hand_over.pass_on(n);
  }
  sums_.finish_column(head, keys, scratch_);
  write(head, intersection(tiles_.block_keys(column), {0, context_.kv_rows(head.batch)}));
}

/// Prefetches this column's share of the next heads, if they fit into the cache beside it.
void ColumnPass::plan_prefetch(const NextHeads& next, std::int64_t column, const Columns& columns) {
  constexpr std::int64_t most_bytes = 256 * 1024;
  prefetch_.clear();
  const Sizes& sizes = context_.sizes();
  const auto bytes = static_cast<std::int64_t>(size_of(context_.forward.tensors.q.dtype)) *
                     (sizes.q_len * (sizes.head_dim + 2 * sizes.v_head_dim) +
                      sizes.kv_len * (sizes.head_dim + sizes.v_head_dim));
  if (sizes.group_size != 1 || bytes > most_bytes) return;
  const auto share_of = [&](std::int64_t count) {
    return KeyRange{count * column / columns.count, count * (column + 1) / columns.count};
  };
  const KvLayout &layout = context_.forward.layout, &gradients = context_.gradient_layout;
  if (next.rows) {
    const auto [batch, head] = *next.rows;
    const KeyRange share = share_of(layout.q_len(batch));
    prefetch_.add(layout.query(batch, head, share.begin), layout.query_stride(), sizes.head_dim,
                  share.size());
    prefetch_.add(gradients.output(batch, head, share.begin), gradients.output_stride(),
                  sizes.v_head_dim, share.size());
    if (!context_.forward.tensors.out.absent()) {
      prefetch_.add(layout.output(batch, head, share.begin), layout.output_stride(),
                    sizes.v_head_dim, share.size());
    }
  }
  if (!next.keys) return;
  const auto [batch, head] = *next.keys;
  const KeyRange share = share_of(layout.kv_len(batch));
  if (share.empty()) return;
  const KeySpan keys = layout.keys(batch, head, share.begin, share.size());
  prefetch_.add(keys.first_key, keys.key_stride, sizes.head_dim, keys.count);
  prefetch_.add(keys.first_value, keys.value_stride, sizes.v_head_dim, keys.count);
}

void ColumnPass::compute_block(const Block& block) {
  KeyRange* keys = tile_keys_;
  keys_.begin_block(block.slot, block.rows, block.column);
  for (std::int64_t first = 0; first < block.rows.count; first += tile_rows) {
    QueryTile tile = tiles_.tile_of(block.rows, first,
                                    std::min(tile_rows, block.rows.count - first), block.column);
    *keys++ = tile.visible_range;
    if (block.first_of_chunk)
      sums_.start_rows(block.slot, block.chunk, block.rows.first + first, tile.rows);
    tile.visible_range.empty() ? clear_tile(block, tile) : process_tile(block, tile);
  }
  add_to_dk_and_dv(block);
}

/// The rows of a tile in a buffer of the block.
float* ColumnPass::of_block(float* block_rows, const QueryTile& tile) const {
  return block_rows + tile.first_row / context_.blocking().vnni_factor * stride_;
}

float* ColumnPass::dq(const Block& block, const QueryTile& tile) const {
  const std::int64_t row = block.rows.first + tile.first_row;
  return block.slot.dq + (block.chunk * context_.plan.padded_rows + row) * context_.plan.key_width;
}

/// A tile that sees nothing of the column adds nothing to the sums over rows.
void ColumnPass::clear_tile(const Block& block, const QueryTile& tile) {
  const Blocking& blocking = context_.blocking();
  const std::int64_t rows = divide_up(tile.rows, blocking.vnni_factor);
  for (float* const buffer : {scratch_.probabilities, scratch_.gradients}) {
    for (std::int64_t r = 0; r < rows; ++r)
      std::fill_n(of_block(buffer, tile) + r * stride_, blocking.kv_block, 0.f);
  }
  if (block.first_of_chunk) std::fill_n(dq(block, tile), tile.rows * context_.plan.key_width, 0.f);
}

void ColumnPass::process_tile(const Block& block, QueryTile& tile) {
  const bool pairs = context_.pairs();
  tile.scores = pairs ? scratch_.tile_probabilities : of_block(scratch_.probabilities, tile);
  tile.score_stride = stride_;
  gradients_ = pairs ? scratch_.tile_gradients : of_block(scratch_.gradients, tile);
  keys_.multiply(block.slot, tile, gradients_, scratch_.saved, prefetch_.walk());
  const bool finite = KeyColumn::finite_rows(block.slot, tile);
  notes_visible_ = !finite || !keys_.keys_finite() || scratch_.saved.before_mod != nullptr;
  if (notes_visible_) NonFiniteValues::note_visible(tile);
  make_gradients(block, tile);
  pass_back(block, tile);
  if (!finite) add_non_finite_rows(block, tile);
  if (pairs) pair_rows(tile);
  add_to_dq(block, tile);
  if (!keys_.keys_finite()) add_non_finite_keys(block, tile);
}

/// S becomes P, and dP becomes dS; both are 0 for hidden pairs, in all columns of the buffers.
void ColumnPass::make_gradients(const Block& block, const QueryTile& tile) {
  const std::int64_t row = block.rows.first + tile.first_row;
  const kernels::GradientTile pairs{.scores = tile.scores,
                                    .gradients = gradients_,
                                    .stride = stride_,
                                    .rows = tile.rows,
                                    .begin = tile.begin,
                                    .end = tile.end,
                                    .first = 0,
                                    .last = context_.blocking().kv_block};
  const float* const shift = block.slot.shift + row;
  switch (context_.forward.call.problem.normalizer.kind()) {
    case Normalizer::Kind::softmax: break;
    case Normalizer::Kind::sigmoid: return context_.kernels().sigmoid_gradient(pairs, shift);
    case Normalizer::Kind::entmax:
      return entmax_gradient(context_.kernels(), pairs, block.slot.thresholds + row);
  }
  const float scale = context_.forward.scores.remaining_scale() * log2e;
  context_.kernels().softmax_gradient(pairs, scale,
                                      {block.slot.base + row, shift, block.slot.mean + row});
}

/// dS goes back through score_mod, is what dmask and dalibi add up, and goes back through softcap.
void ColumnPass::pass_back(const Block& block, const QueryTile& tile) {
  const RowScores& scores = context_.forward.scores;
  const bool modified = scratch_.saved.before_mod != nullptr;
  const bool capped = scratch_.saved.capped != nullptr;
  const BackwardExtras& extras = context_.plan.extras;
  if (!modified && !capped && !extras.dalibi && extras.mask_sums == MaskSums::none) return;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const KeyRange range = tile.range(r);
    if (range.empty()) continue;
    float* const gradient = gradients_ + r * stride_ + range.begin;
    const SavedScores saved = scratch_.saved.of_row(r, range.begin);
    const QueryRow query = tiles_.query_row(tile, r);
    if (modified) {
      scores.gradient_before_mod(query, tile.keys(r), saved.before_mod, gradient);
      const std::uint8_t* const visible = tile.visible_row(r) + range.begin;
      for (std::int64_t n = 0; n < range.size(); ++n) gradient[n] = visible[n] ? gradient[n] : 0;
    }
    sums_.add({query, block.rows.first + tile.first_row + r, tile.keys(r), range.begin, gradient},
              block.slot, block.chunk, scratch_);
    if (capped) scores.gradient_before_softcap(saved.capped, range.size(), gradient);
  }
}

/// dV += P dout and dK += dS Q for what is not finite in rows of dout and Q, and for visible pairs
/// alone: 0 times infinity would be NaN.
void ColumnPass::add_non_finite_rows(const Block& block, const QueryTile& tile) {
  float* const staging = scratch_.tiles.staging;
  const auto add = [&](std::int64_t r, const Row& row, std::int64_t count, const float* factors,
                       float* to, std::int64_t to_stride) {
    const float* const values = as_floats(row, count, context_.kernels(), staging);
    const KeyRange range = tile.range(r);
    for (std::int64_t j = range.begin; j < range.end; ++j) {
      if (tile.visible_row(r)[j]) add_non_finite(values, count, factors[j], to + j * to_stride);
    }
  };
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = block.rows.first + tile.first_row + r;
    if (!block.slot.dout_finite[row]) {
      add(r, keys_.dout(tile, r), context_.sizes().v_head_dim, tile.row(r), scratch_.dv,
          context_.blocking().value_width);
    }
    if (!block.slot.query_finite[row]) {
      add(r, keys_.query(tile, r), context_.sizes().head_dim, gradients_ + r * stride_, scratch_.dk,
          context_.plan.key_width);
    }
  }
}

/// Rounds P and dS to bf16: in pairs of rows for the sums over rows, dS in pairs of keys for dS K.
void ColumnPass::pair_rows(const QueryTile& tile) {
  const auto pair = [&](float* x, float* buffer, float* rounded) {
    context_.arithmetic().pair_rows({.x = x,
                                     .stride = stride_,
                                     .rows = tile.rows,
                                     .columns = context_.blocking().kv_block,
                                     .pairs = of_block(buffer, tile),
                                     .rounded = rounded});
  };
  pair(tile.scores, scratch_.probabilities, nullptr);
  pair(gradients_, scratch_.gradients, gradients_);
}

void ColumnPass::add_to_dq(const Block& block, const QueryTile& tile) {
  const std::int64_t vnni_factor = context_.blocking().vnni_factor;
  const std::int64_t key_width = context_.plan.key_width;
  const std::int64_t begin = tile.visible_range.begin / vnni_factor;
  const std::int64_t end = divide_up(tile.visible_range.end, vnni_factor);
  context_.arithmetic().matmul({.a = gradients_ + begin,
                                .a_stride = stride_,
                                .b = keys_.key_rows(begin),
                                .c = dq(block, tile),
                                .c_stride = key_width,
                                .rows = tile.rows,
                                .columns = key_width,
                                .depth = end - begin,
                                .accumulate = !block.first_of_chunk});
}

/// dQ += dS K for what is not finite in K, and for visible pairs alone.
void ColumnPass::add_non_finite_keys(const Block& block, const QueryTile& tile) {
  const std::int64_t head_dim = context_.sizes().head_dim;
  const HeadQueries& head = block.rows.head;
  for (std::int64_t j = tile.visible_range.begin; j < tile.visible_range.end; ++j) {
    const KeySpan span =
        context_.forward.layout.keys(head.batch, head.kv_head, tile.block_begin + j, 1);
    const float* const key =
        as_floats(span.key(0), head_dim, context_.kernels(), scratch_.tiles.staging);
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      if (j < tile.begin[r] || j >= tile.end[r] || !tile.visible_row(r)[j]) continue;
      add_non_finite(key, head_dim, gradient_of(r, j),
                     dq(block, tile) + r * context_.plan.key_width);
    }
  }
}

/// dS of a pair after it was rounded.
float ColumnPass::gradient_of(std::int64_t r, std::int64_t j) const {
  const float* const row = gradients_ + r * stride_;
  if (!context_.pairs()) return row[j];
  float value = 0;
  context_.kernels().widen_bf16(reinterpret_cast<const std::uint16_t*>(row) + j, 1, &value);
  return value;
}

/// The sums over the rows of a block, for 6 keys at a time, from the first to the last tile that
/// sees any of them.
void ColumnPass::add_to_dk_and_dv(const Block& block) {
  const std::int64_t tiles = divide_up(block.rows.count, tile_rows);
  const std::int64_t vnni_factor = context_.blocking().vnni_factor;
  const std::int64_t key_width = context_.plan.key_width,
                     value_width = context_.blocking().value_width;
  const KeyRange seen = intersection(block.rows.visible_to_any, tiles_.block_keys(block.column));
  const std::int64_t begin = seen.begin - block.column * context_.blocking().kv_block;
  for (std::int64_t key = begin; key < begin + seen.size(); key += tile_rows) {
    const KeyRange keys{key, std::min(key + tile_rows, begin + seen.size())};
    const auto sees = [&](std::int64_t t) { return !intersection(tile_keys_[t], keys).empty(); };
    std::int64_t first = 0, last = tiles;
    while (first < last && !sees(first)) ++first;
    while (last > first && !sees(last - 1)) --last;
    if (first == last) continue;
    const std::int64_t row = first * tile_rows / vnni_factor;
    const std::int64_t end = divide_up(std::min(last * tile_rows, block.rows.count), vnni_factor);
    const std::int64_t of_head = block.rows.first / vnni_factor + row;
    const auto add = [&](const float* factors, const float* rows, std::int64_t width,
                         const kernels::PanelLayout& layout, float* to) {
      context_.arithmetic().matmul_transposed({.a = factors + row * stride_ + key,
                                               .a_stride = stride_,
                                               .b = {rows + of_head * width, layout},
                                               .c = to + key * width,
                                               .c_stride = width,
                                               .rows = keys.size(),
                                               .columns = width,
                                               .depth = end - row,
                                               .accumulate = true});
    };
    add(scratch_.probabilities, block.slot.dout_rows, value_width, context_.plan.dout_rows,
        scratch_.dv);
    add(scratch_.gradients, block.slot.query_rows, key_width, context_.plan.key_rows, scratch_.dk);
  }
}

void ColumnPass::write(const HeadQueries& head, KeyRange keys) {
  const kernels::Kernels& kernels = context_.kernels();
  const Sizes& sizes = context_.sizes();
  const float scale = context_.forward.call.problem.softmax_scale;
  for (std::int64_t n = 0; n < keys.size(); ++n) {
    const KeySpan to = context_.gradient_layout.keys(head.batch, head.kv_head, keys.begin + n, 1);
    if (!context_.gradients.dk.absent()) {
      float* const dk = scratch_.dk + n * context_.plan.key_width;
      const Row row = to.key(0);
      float* const scaled = row.dense_f32() ? row.floats() : dk;
      kernels.scale(dk, sizes.head_dim, scale, scaled);
      if (scaled == dk) write_row(dk, sizes.head_dim, kernels, row);
    }
    if (!context_.gradients.dv.absent()) {
      write_row(scratch_.dv + n * context_.blocking().value_width, sizes.v_head_dim, kernels,
                to.value(0));
    }
  }
}

}  // namespace attn::detail
