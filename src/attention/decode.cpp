// For the rows of one KV head, all at once:
//
//   for each block of keys that any of the rows sees              (its K and V come from memory to
//   L2, and are used there)
//     for each tile of up to 6 rows
//       S = Q K^T where K lies     asks for the block's V meanwhile
//       transform the rows         only where asked for
//       P = exp2(S - row_max)      rescales the rows of O whose maximum grew
//       O += P V where V lies      asks for the next block's K meanwhile
//
// A key costs (head_dim + v_head_dim) elements from memory, once; the time is theirs. With several
// splits of the keys, each is an item of its own, and who finishes last merges their states, in
// their order.
#include "attention/decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace attn::detail {
namespace {

constexpr float log2e = 1.44269504088896341f;

std::int64_t round_down(std::int64_t n, std::int64_t to) { return n / to * to; }
std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// As few tiles as there can be, and as even.
std::int64_t rows_of_a_tile(std::int64_t rows) {
  const std::int64_t tiles = (rows + kernels::tile_rows - 1) / kernels::tile_rows;
  return (rows + tiles - 1) / tiles;
}

const kernels::StoredArithmetic& arithmetic_of(const kernels::Kernels& kernels, DType dtype) {
  switch (dtype) {
    case DType::bf16: return kernels.stored_bf16;
    case DType::f16: return kernels.stored_f16;
    case DType::i8: return kernels.stored_i8;
    default: return kernels.stored_f32;
  }
}

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

}  // namespace

DecodePass::DecodePass(const PreparedCall& prepared, const AttentionTensors& tensors,
                       const KvLayout& layout, const RowScores& row_scores,
                       const ThreadScratch& scratch)
    : blocking_(prepared.short_blocking),
      sizes_(prepared.problem.sizes),
      kernels_(*prepared.kernels),
      arithmetic_(arithmetic_of(kernels_, tensors.k.dtype)),
      bf16_queries_(tensors.q.dtype == DType::bf16 && arithmetic_.scores_of_bf16 != nullptr),
      layout_(layout),
      row_scores_(row_scores),
      scratch_(scratch),
      tiles_(prepared, blocking_, tensors, layout, row_scores, scratch) {}

void DecodePass::compute(const HeadQueries& place, const NextKeys& next) {
  compute_part(place, {0, std::numeric_limits<std::int64_t>::max()}, scratch_.states, next);
  tiles_.finish(tiles_.rows_of(place, 0, place.rows, {}), 0, place.rows, scratch_.states);
}

void DecodePass::compute_part(const HeadQueries& place, KeyRange among, const RowStates& states,
                              const NextKeys& next) {
  next_ = next;
  const QueryBlock rows = tiles_.rows_of(place, 0, place.rows, among);
  tiles_.clear(states, rows.count);
  if (rows.visible_to_any.empty()) return;
  read_queries(rows);
  const std::int64_t step = rows_of_a_tile(rows.count);
  for (std::int64_t block = rows.first_block; block <= rows.last_block; ++block) {
    for (std::int64_t first_row = 0; first_row < rows.count; first_row += step) {
      QueryTile tile =
          tiles_.tile_of(rows, first_row, std::min(step, rows.count - first_row), block);
      if (!tile.visible_range.empty()) process_tile(tile, part_of(states, first_row));
    }
  }
}

void DecodePass::read_queries(const QueryBlock& rows) {
  std::fill_n(scratch_.queries, rows.count * blocking_.key_depth, 0.f);
  const std::int64_t vnni_factor = bf16_queries_ ? 2 : 1;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    read_packed(tiles_.query(rows, r), sizes_.head_dim, vnni_factor, kernels_,
                scratch_.queries + r * blocking_.key_depth);
  }
}

RowStates DecodePass::part_of(const RowStates& states, std::int64_t first_row) const {
  return {states.out + first_row * blocking_.value_width, states.row_max + first_row,
          states.row_sum + first_row};
}

void DecodePass::copy(const RowStates& from, std::int64_t rows, const RowStates& to) const {
  std::copy_n(from.out, rows * blocking_.value_width, to.out);
  std::copy_n(from.row_max, rows, to.row_max);
  std::copy_n(from.row_sum, rows, to.row_sum);
}

/// `states` are those of the tile's rows. Values are taken to be finite; where O shows that some
/// are not, the tile is done again.
void DecodePass::process_tile(QueryTile& tile, const RowStates& states) {
  copy(states, tile.rows, scratch_.saved);
  make_scores(tile);
  tiles_.transform(tile);
  weigh(tile, states);
  add_values(tile, states);
  if (kernels_.all_finite(states.out, tile.rows * blocking_.value_width)) return;

  copy(scratch_.saved, tile.rows, states);
  make_scores(tile);
  tiles_.transform(tile);
  tiles_.note_visible(tile);
  weigh(tile, states);
  tiles_.add_visible_values(tile, states.out, [](float value) { return !std::isfinite(value); });
  add_finite_values(tile, states);
}

/// Calls use(stretch, n) for the tile's keys, the first of them being key n of the block.
template <class Use>
void DecodePass::for_each_span(const QueryTile& tile, Use use) {
  const HeadQueries& place = tile.block_rows->place;
  for (std::int64_t n = tile.visible_range.begin; n < tile.visible_range.end;) {
    const KeySpan stretch =
        layout_.keys(place.batch, place.kv_head, tile.block_begin + n, tile.visible_range.end - n);
    use(stretch, n);
    n += stretch.count;
  }
}

/// Rows whose elements do not lie side by side are gathered before, a few at a time, for the same
/// arithmetic. `rows` begin with `first`.
template <class Use>
void DecodePass::through_staging(const Row& first, const kernels::StoredRows& rows, Use use) {
  auto* const staging = reinterpret_cast<std::byte*>(scratch_.staging);
  const std::size_t size = size_of(first.dtype);
  for (std::int64_t done = 0; done < rows.count; done += kernels_.panel_width) {
    kernels::StoredRows staged = rows;
    staged.data = staging;
    staged.stride = bytes(first, rows.width);
    staged.count = std::min(kernels_.panel_width, rows.count - done);
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

void DecodePass::make_scores(QueryTile& tile) {
  tile.scores = scratch_.scores;
  tile.score_stride = score_stride(blocking_);
  const bool first_tile = tile.first_row == 0;
  const auto scores_of = bf16_queries_ ? arithmetic_.scores_of_bf16 : arithmetic_.scores;
  for_each_span(tile, [&](const KeySpan& keys, std::int64_t n) {
    const auto multiply = [&](const kernels::StoredRows& rows, std::int64_t first,
                              const kernels::PrefetchRows& ahead) {
      scores_of({.q = scratch_.queries + tile.first_row * blocking_.key_depth,
                 .q_stride = blocking_.key_depth,
                 .rows = tile.rows,
                 .keys = rows,
                 .scores = tile.scores + n + first,
                 .stride = tile.score_stride,
                 .ahead = ahead});
    };
    const kernels::StoredRows stored = stored_keys(keys, sizes_.head_dim);
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

void DecodePass::weigh(const QueryTile& tile, const RowStates& states) {
  kernels_.weigh({.scores = tile.scores,
                  .stride = tile.score_stride,
                  .rows = tile.rows,
                  .begin = tile.begin,
                  .end = tile.end,
                  .first = round_down(tile.visible_range.begin, kernels_.vector_width),
                  .last = round_up(tile.visible_range.end, kernels_.vector_width),
                  .scale = row_scores_.remaining_scale() * log2e,
                  .maxima = nullptr,
                  .row_max = states.row_max,
                  .row_sum = states.row_sum,
                  .values = {},
                  .value_end = 0,
                  .out = states.out,
                  .out_stride = blocking_.value_width,
                  .columns = blocking_.value_width});
}

/// What lies a block of keys after key `n` of this one; past the end, what comes next.
kernels::PrefetchRows DecodePass::keys_to_prefetch(const QueryTile& tile, std::int64_t n,
                                                   std::int64_t most) const {
  const QueryBlock& rows = *tile.block_rows;
  if (tile.first_row > 0) return {};
  NextKeys ahead{rows.place.batch,
                 rows.place.kv_head,
                 {tile.block_begin + blocking_.kv_block + n, rows.visible_to_any.end}};
  if (ahead.keys.empty()) {
    ahead = next_;
    ahead.keys.begin += n - tile.visible_range.begin;
  }
  if (ahead.keys.empty()) return {};
  const KeySpan keys =
      layout_.keys(ahead.batch, ahead.kv_head, ahead.keys.begin, std::min(most, ahead.keys.size()));
  return prefetch_of(keys.first_key, keys.key_stride, keys.count);
}

void DecodePass::add_values(const QueryTile& tile, const RowStates& states) {
  for_each_span(tile, [&](const KeySpan& keys, std::int64_t n) {
    const kernels::StoredRows stored = stored_values(keys, sizes_.v_head_dim);
    if (keys.first_value.stride != 1) {
      return through_staging(keys.first_value, stored,
                             [&](const kernels::StoredRows& rows, std::int64_t at) {
                               add(arithmetic_, tile, n + at, rows, states, {});
                             });
    }
    add(arithmetic_, tile, n, stored, states, keys_to_prefetch(tile, n, keys.count));
  });
}

/// Values of the block from key n on.
void DecodePass::add(const kernels::StoredArithmetic& arithmetic, const QueryTile& tile,
                     std::int64_t n, const kernels::StoredRows& values, const RowStates& states,
                     const kernels::PrefetchRows& ahead) const {
  arithmetic.add_values({.weights = tile.scores + n,
                         .stride = tile.score_stride,
                         .rows = tile.rows,
                         .values = values,
                         .out = states.out,
                         .out_stride = blocking_.value_width,
                         .ahead = ahead});
}

/// As add_values, to the same bits, but with 0 for what is not finite.
void DecodePass::add_finite_values(const QueryTile& tile, const RowStates& states) {
  const HeadQueries& place = tile.block_rows->place;
  const std::int64_t width = sizes_.v_head_dim;
  for (std::int64_t n = tile.visible_range.begin; n < tile.visible_range.end; ++n) {
    Row value = layout_.keys(place.batch, place.kv_head, tile.block_begin + n, 1).value(0);
    const float scale = std::isfinite(value.scale) ? value.scale : 0.f;
    value.scale = 1;
    read_row(value, width, kernels_, scratch_.staging);
    std::replace_if(
        scratch_.staging, scratch_.staging + width, [](float x) { return !std::isfinite(x); }, 0.f);
    const auto* data = reinterpret_cast<const std::byte*>(scratch_.staging);
    add(kernels_.stored_f32, tile, n,
        {.data = data, .stride = 0, .count = 1, .width = width, .scales = &scale}, states, {});
  }
}

void DecodePass::merge_parts(const HeadQueries& place, const RowStates& parts, std::int64_t count) {
  copy(parts, place.rows, scratch_.states);
  for (std::int64_t part = 1; part < count; ++part)
    merge(part_of(parts, part * place.rows), scratch_.states, place.rows);
  tiles_.finish(tiles_.rows_of(place, 0, place.rows, {}), 0, place.rows, scratch_.states);
}

void DecodePass::merge(const RowStates& part, const RowStates& into, std::int64_t rows) const {
  const float scale = row_scores_.remaining_scale() * log2e;
  for (std::int64_t r = 0; r < rows; ++r) {
    if (part.row_sum[r] == 0) continue;
    const float greatest = std::max(into.row_max[r], part.row_max[r]);
    const auto factor = [&](float row_max) {
      return row_max == greatest ? 1.f : std::exp2((row_max - greatest) * scale);
    };
    const float kept = factor(into.row_max[r]), added = factor(part.row_max[r]);
    into.row_max[r] = greatest;
    into.row_sum[r] = into.row_sum[r] * kept + part.row_sum[r] * added;
    float* const out = into.out + r * blocking_.value_width;
    const float* const part_out = part.out + r * blocking_.value_width;
    for (std::int64_t n = 0; n < blocking_.value_width; ++n)
      out[n] = out[n] * kept + part_out[n] * added;
  }
}

}  // namespace attn::detail
