// For all rows of one KV head at once:
//
//   for each block of keys that any of the rows sees    (its K and V come from memory to L2 once)
//     for each tile of up to 6 rows
//       S = Q K^T, K in place          prefetches the V of the block
//       transform the rows             only if there is something to do
//       P = exp2(S - row_max)          rescales the rows of O whose maximum grew
//       O += P V, V in place           prefetches the K of the next block
//
// A key costs (head_dim + v_head_dim) elements from memory, once, and the time of the pass is
// theirs. With several splits of the keys, each split is a work item of its own; the thread that
// finishes the last one merges their states, in their order (split-KV).
#include "attention/decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

constexpr float log2e = 1.44269504088896341f;

std::int64_t bytes(const Row& row, std::int64_t elements) {
  return elements * static_cast<std::int64_t>(size_of(row.dtype));
}

kernels::PrefetchRows prefetch_of(const Row& first, std::int64_t stride, std::int64_t count) {
  return {.data = first.data, .stride = bytes(first, stride), .count = count};
}

kernels::StoredRows stored_keys(const KeySpan& keys, std::int64_t head_dim) {
  return {.data = keys.first_key.data,
          .stride = bytes(keys.first_key, keys.key_stride),
          .count = keys.count,
          .width = head_dim,
          .scales = keys.key_scales,
          .scale_stride = keys.key_scale_stride};
}

kernels::StoredRows stored_values(const KeySpan& keys, std::int64_t v_head_dim) {
  return {.data = keys.first_value.data,
          .stride = bytes(keys.first_value, keys.value_stride),
          .count = keys.count,
          .width = v_head_dim,
          .scales = keys.value_scales,
          .scale_stride = keys.value_scale_stride};
}

/// Reorders pairs of bf16 as the scores of i8 keys need them: in each vector, elements n and n + W
/// of 2 W become pair n.
void pair_distant_elements(float* row, std::int64_t elements, std::int64_t vector_width) {
  std::uint16_t halves[2 * kernels::max_vector_width];
  for (std::int64_t first = 0; first < elements; first += 2 * vector_width) {
    auto* const vector = reinterpret_cast<std::byte*>(row + first / 2);
    const auto bytes = static_cast<std::size_t>(2 * vector_width) * sizeof *halves;
    std::memcpy(halves, vector, bytes);
    std::uint16_t paired[2 * kernels::max_vector_width];
    for (std::int64_t n = 0; n < vector_width; ++n) {
      paired[2 * n] = halves[n];
      paired[2 * n + 1] = halves[n + vector_width];
    }
    std::memcpy(vector, paired, bytes);
  }
}

}  // namespace

DecodePass::DecodePass(const CallContext& context, const ThreadScratch& scratch)
    : context_(context),
      scratch_(scratch),
      tiles_(context, context.plan().unpacked, scratch),
      non_finite_(context, context.plan().unpacked, scratch.staging) {}

void DecodePass::finish(const HeadQueries& head, bool tiny_values) {
  tiles_.finish(tiles_.block_of(head, 0, head.rows, all_keys), 0, head.rows, scratch_.states, *this,
                tiny_values);
}

/// The queries are read again, as other heads may have been computed since.
QueryTile DecodePass::probabilities_of(const QueryBlock& rows, std::int64_t r, std::int64_t block) {
  QueryTile tile = tiles_.tile_of(rows, r, 1, block);
  if (tile.visible_range.empty()) return tile;
  read_queries(rows);
  compute_scores(tile);
  tiles_.transform(tile);
  exponentiate(tile, scratch_.states.row_max[r], context_.scores.remaining_scale());
  return tile;
}

bool DecodePass::compute_part(const HeadQueries& head, KeyRange among, const SoftmaxStates& states,
                              const NextKeys& next) {
  next_ = next;
  tiny_values_ = false;
  // For fewer rows, pairing the values would take longer than multiplying them as floats.
  pairs_ = context_.call.pairs_of_queries && head.rows >= 4 &&
           context_.call.unpacked_arithmetic->add_values_to_pairs != nullptr;
  const QueryBlock rows = tiles_.unhidden_block_of(head, 0, head.rows, among);
  set_identity(states, rows.count, blocking().value_width);
  if (rows.last_block < rows.first_block) return false;
  read_queries(rows);
  const std::int64_t step = rows_of_a_tile(rows.count);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    if (!tiles_.sees(rows, block)) continue;
    for (std::int64_t first_row = 0; first_row < rows.count; first_row += step) {
      QueryTile tile =
          tiles_.tile_of(rows, first_row, std::min(step, rows.count - first_row), block);
      if (!tile.visible_range.empty())
        process_tile(tile, states.from(first_row, blocking().value_width));
    }
  }
  return tiny_values_;
}

void DecodePass::read_queries(const QueryBlock& rows) {
  const std::int64_t key_depth = blocking().key_depth, head_dim = context_.sizes().head_dim;
  std::fill_n(scratch_.queries, rows.count * key_depth, 0.f);
  const bool pairs = context_.call.pairs_of_queries;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    float* const to = scratch_.queries + r * key_depth;
    read_packed(tiles_.query(rows, r), head_dim, pairs ? 2 : 1, context_.kernels(), to);
    if (pairs && context_.plan().kv_type == DType::i8)
      pair_distant_elements(to, head_dim, context_.kernels().vector_width);
  }
}

/// `states` are those of the rows of the tile. Values are taken to be finite; if O shows that some
/// are not, the tile is computed again (non_finite.hpp).
void DecodePass::process_tile(QueryTile& tile, const SoftmaxStates& states) {
  const std::int64_t width = blocking().value_width;
  copy_states(states, tile.rows, width, scratch_.saved);
  compute_scores(tile);
  tiles_.transform(tile);
  softmax_rows(tile, states);
  if (pairs_) {
    pair_probabilities(tile, true);
    add_values_to_pairs(tile, states);
  } else {
    add_values(tile, states);
  }
  if (context_.kernels().all_finite(states.out, tile.rows * width)) return;

  copy_states(scratch_.saved, tile.rows, width, states);
  compute_scores(tile);
  tiles_.transform(tile);
  non_finite_.note_visible(tile);
  softmax_rows(tile, states);
  non_finite_.add(tile, states.out);
  if (pairs_) {
    pair_probabilities(tile, false);
    add_values_to_pairs(tile, states);
  } else {
    add_finite_values(tile, states);
  }
}

/// Calls use(span, n) for the keys of the tile, where the first key of the span is key n of the
/// block.
template <class Use>
void DecodePass::for_each_span(const QueryTile& tile, Use use) {
  const HeadQueries& head = tile.block_rows->head;
  for (std::int64_t n = tile.visible_range.begin; n < tile.visible_range.end;) {
    const KeySpan span = context_.layout.keys(head.batch, head.kv_head, tile.block_begin + n,
                                              tile.visible_range.end - n);
    use(span, n);
    n += span.count;
  }
}

/// Gathers rows whose elements are not neighbors in memory, a few at a time, and calls
/// use(rows, n) with them. `first` is the first of `rows`.
template <class Use>
void DecodePass::through_staging(const Row& first, const kernels::StoredRows& rows, Use use) {
  auto* const staging = reinterpret_cast<std::byte*>(scratch_.staging);
  const std::size_t size = size_of(first.dtype);
  const std::int64_t panel_width = context_.plan().panel_width;
  for (std::int64_t done = 0; done < rows.count; done += panel_width) {
    kernels::StoredRows staged = rows;
    staged.data = staging;
    staged.stride = bytes(first, rows.width);
    staged.count = std::min(panel_width, rows.count - done);
    if (rows.scales != nullptr) staged.scales = rows.scales + done * rows.scale_stride;
    for (std::int64_t n = 0; n < staged.count; ++n) {
      Row row = first;
      row.data += (done + n) * rows.stride;
      for (std::int64_t d = 0; d < rows.width; ++d)
        std::memcpy(staging + n * staged.stride + bytes(first, d), row.at(d), size);
    }
    use(staged, done);
  }
}

void DecodePass::compute_scores(QueryTile& tile) {
  const std::int64_t key_depth = blocking().key_depth;
  tile.scores = scratch_.scores;
  tile.score_stride = score_stride(blocking());
  const bool first_tile = tile.first_row == 0;
  const kernels::StoredArithmetic& arithmetic = *context_.call.unpacked_arithmetic;
  const auto scores_of =
      context_.call.pairs_of_queries ? arithmetic.scores_with_bf16_queries : arithmetic.scores;
  for_each_span(tile, [&](const KeySpan& keys, std::int64_t n) {
    const auto multiply = [&](const kernels::StoredRows& rows, std::int64_t first,
                              const kernels::PrefetchRows& ahead) {
      scores_of({.q = scratch_.queries + tile.first_row * key_depth,
                 .q_stride = key_depth,
                 .rows = tile.rows,
                 .keys = rows,
                 .scores = tile.scores + n + first,
                 .stride = tile.score_stride,
                 .prefetch = ahead});
    };
    const kernels::StoredRows stored = stored_keys(keys, context_.sizes().head_dim);
    if (keys.first_key.stride != 1) {
      return through_staging(
          keys.first_key, stored,
          [&](const kernels::StoredRows& rows, std::int64_t at) { multiply(rows, at, {}); });
    }
    multiply(stored, 0,
             first_tile ? prefetch_of(keys.first_value, keys.value_stride, keys.count)
                        : kernels::PrefetchRows{});
  });
}

/// Multiplies the probabilities by the scales of their values and rounds them to pairs. As integers
/// are finite, only a scale can be not finite; then 0 may take its place.
void DecodePass::pair_probabilities(const QueryTile& tile, bool any_scale) {
  const kernels::Kernels& kernels = context_.kernels();
  const KeyRange keys = tile.visible_range;
  float* const scales = scratch_.row_scales;
  for_each_span(tile, [&](const KeySpan& span, std::int64_t n) {
    for (std::int64_t j = 0; j < span.count; ++j) {
      const float scale = span.value(j).scale;
      scales[n + j] = any_scale || std::isfinite(scale) ? scale : 0.f;
      tiny_values_ |= scale != 0 && std::fabs(scale) < kernels::tiny_bf16;
    }
  });
  const std::int64_t first = round_down(keys.begin, 2), end = round_up(keys.end, 2);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    kernels.multiply(tile.row(r) + keys.begin, keys.size(), scales + keys.begin);
    auto* const halves =
        reinterpret_cast<std::uint16_t*>(scratch_.paired_rows + r * blocking().kv_block);
    kernels.narrow_bf16(tile.row(r) + first, end - first, halves + first);
  }
}

/// Two keys are a pair by their place in the block. Where a page or a part of a ring ends between
/// them, their values are gathered.
void DecodePass::add_values_to_pairs(const QueryTile& tile, const SoftmaxStates& states) {
  const HeadQueries& head = tile.block_rows->head;
  const std::int64_t end = tile.visible_range.end, width = context_.sizes().v_head_dim;
  auto* const staging = reinterpret_cast<std::byte*>(scratch_.staging);
  for (std::int64_t n = tile.visible_range.begin; n < end;) {
    const KeySpan keys =
        context_.layout.keys(head.batch, head.kv_head, tile.block_begin + n, end - n);
    kernels::StoredRows rows = stored_values(keys, width);
    kernels::PrefetchRows ahead = keys_to_prefetch(tile, n, keys.count);
    if (keys.first_value.stride != 1 || (n + keys.count < end && (n + keys.count) % 2 != 0)) {
      ahead = {};
      rows.data = staging;
      rows.stride = width;
      rows.count = std::min(context_.plan().panel_width - n % 2, end - n);
      for (std::int64_t j = 0; j < rows.count; ++j) {
        const KeySpan key =
            context_.layout.keys(head.batch, head.kv_head, tile.block_begin + n + j, 1);
        for (std::int64_t d = 0; d < width; ++d) staging[j * width + d] = *key.first_value.at(d);
      }
    }
    context_.call.unpacked_arithmetic->add_values_to_pairs(
        {.probabilities = scratch_.paired_rows + n / 2,
         .stride = blocking().kv_block,
         .rows = tile.rows,
         .values = rows,
         .out = states.out,
         .out_stride = blocking().value_width,
         .prefetch = ahead,
         .begins_odd = n % 2 != 0});
    n += rows.count;
  }
}

void DecodePass::softmax_rows(const QueryTile& tile, const SoftmaxStates& states) {
  const kernels::Kernels& kernels = context_.kernels();
  const std::int64_t width = blocking().value_width;
  kernels.softmax_rows({.scores = tile.scores,
                        .stride = tile.score_stride,
                        .rows = tile.rows,
                        .begin = tile.begin,
                        .end = tile.end,
                        .first = round_down(tile.visible_range.begin, kernels.vector_width),
                        .last = round_up(tile.visible_range.end, kernels.vector_width),
                        .scale = context_.scores.remaining_scale() * log2e,
                        .maxima = nullptr,
                        .row_max = states.row_max,
                        .row_sum = states.row_sum,
                        .values = {},
                        .value_end = 0,
                        .out = states.out,
                        .out_stride = width,
                        .columns = width});
}

/// The keys one block after key `n` of this one; past the end of the rows' keys, those that this
/// thread reads next.
kernels::PrefetchRows DecodePass::keys_to_prefetch(const QueryTile& tile, std::int64_t n,
                                                   std::int64_t most) const {
  const QueryBlock& rows = *tile.block_rows;
  if (tile.first_row > 0) return {};
  NextKeys ahead{rows.head.batch,
                 rows.head.kv_head,
                 {tile.block_begin + blocking().kv_block + n, rows.visible_to_any.end}};
  if (ahead.keys.empty()) {
    ahead = next_;
    ahead.keys.begin += n - tile.visible_range.begin;
  }
  if (ahead.keys.empty()) return {};
  const KeySpan keys = context_.layout.keys(ahead.batch, ahead.kv_head, ahead.keys.begin,
                                            std::min(most, ahead.keys.size()));
  return prefetch_of(keys.first_key, keys.key_stride, keys.count);
}

void DecodePass::add_values(const QueryTile& tile, const SoftmaxStates& states) {
  const kernels::StoredArithmetic& arithmetic = *context_.call.unpacked_arithmetic;
  for_each_span(tile, [&](const KeySpan& keys, std::int64_t n) {
    const kernels::StoredRows stored = stored_values(keys, context_.sizes().v_head_dim);
    if (keys.first_value.stride != 1) {
      return through_staging(keys.first_value, stored,
                             [&](const kernels::StoredRows& rows, std::int64_t at) {
                               add(arithmetic, tile, n + at, rows, states, {});
                             });
    }
    add(arithmetic, tile, n, stored, states, keys_to_prefetch(tile, n, keys.count));
  });
}

/// Adds values of the block from key n on.
void DecodePass::add(const kernels::StoredArithmetic& arithmetic, const QueryTile& tile,
                     std::int64_t n, const kernels::StoredRows& values, const SoftmaxStates& states,
                     const kernels::PrefetchRows& ahead) const {
  arithmetic.add_values({.probabilities = tile.scores + n,
                         .stride = tile.score_stride,
                         .rows = tile.rows,
                         .values = values,
                         .out = states.out,
                         .out_stride = blocking().value_width,
                         .prefetch = ahead});
}

/// The same as add_values, to the same bits, but with 0 in the place of what is not finite.
void DecodePass::add_finite_values(const QueryTile& tile, const SoftmaxStates& states) {
  const HeadQueries& head = tile.block_rows->head;
  for (std::int64_t n = tile.visible_range.begin; n < tile.visible_range.end; ++n) {
    const Row value =
        context_.layout.keys(head.batch, head.kv_head, tile.block_begin + n, 1).value(0);
    const float scale = std::isfinite(value.scale) ? value.scale : 0.f;
    non_finite_.read_finite(value, scratch_.staging);
    const auto* data = reinterpret_cast<const std::byte*>(scratch_.staging);
    add(context_.kernels().stored_f32, tile, n,
        {.data = data,
         .stride = 0,
         .count = 1,
         .width = context_.sizes().v_head_dim,
         .scales = &scale},
        states, {});
  }
}

}  // namespace attn::detail
