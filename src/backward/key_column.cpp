#include "backward/key_column.hpp"

#include <algorithm>

#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {

KeyColumn::KeyColumn(const BackwardContext& context, const ColumnScratch& scratch)
    : context_(context),
      scratch_(scratch),
      tiles_(context.forward, context.blocking(), scratch.tiles) {
  if (context.plan.call.onednn_rows == 0) return;
  scores_.emplace(context.prepared.scores_matmul);
  gradients_.emplace(context.prepared.gradients_matmul);
}

void KeyColumn::pack(const HeadQueries& head, KeyRange keys) {
  const BackwardPlan& plan = context_.plan;
  const Sizes& sizes = context_.sizes();
  const std::int64_t vnni_factor = context_.blocking().vnni_factor, panel = plan.call.panel_width;
  const std::int64_t key_depth = context_.blocking().key_depth, value_depth = plan.dout_depth;
  keys_finite_ = true;
  for (std::int64_t first = 0; first < keys.size(); first += panel) {
    const std::int64_t count = std::min(panel, keys.size() - first);
    const KeySpan span =
        context_.forward.layout.keys(head.batch, head.kv_head, keys.begin + first, count);
    const Operand v = read({span.first_value, span.value_stride, count, sizes.v_head_dim});
    pack_transposed(v, count, value_depth, values_transposed(), first, plan.transposed_values);
    const Operand k = read({span.first_key, span.key_stride, count, sizes.head_dim});
    pack_transposed(k, count, key_depth, keys_transposed(), first, plan.transposed_keys);
    keys_finite_ &= context_.arithmetic().pack_finite(
        k.rows, k.stride * vnni_factor, count, sizes.head_dim,
        scratch_.key_rows + first / vnni_factor * plan.key_width, plan.key_rows);
  }
}

/// Packs a panel, whose first column is `first`, and clears its rows up to `padded`.
void KeyColumn::pack_transposed(const Operand& rows, std::int64_t count, std::int64_t depth,
                                const kernels::Panels& to, std::int64_t first,
                                std::int64_t padded) const {
  const auto [row_stride, panel_stride, panel_width] = to.layout;
  float* const panel = const_cast<float*>(to.data) + first / panel_width * panel_stride;
  context_.kernels().pack_transposed(rows.rows, rows.stride, count, depth, panel, row_stride);
  for (std::int64_t k = depth; k < padded; ++k)
    std::fill_n(panel + k * row_stride, panel_width, 0.f);
}

/// Rows as packed elements: in place if they lie so, else in the staging buffer.
KeyColumn::Operand KeyColumn::read(const Rows& rows) const {
  const std::int64_t vnni_factor = context_.blocking().vnni_factor;
  if (is_packed(rows.first, rows.width, vnni_factor, rows.stride))
    return {rows.first.floats(), rows.stride / vnni_factor};
  float* const staging = scratch_.tiles.staging;
  const std::int64_t depth = divide_up(rows.width, vnni_factor);
  for (std::int64_t n = 0; n < rows.count; ++n) {
    read_packed({rows.first.at(0) + n * rows.stride * std::int64_t(size_of(rows.first.dtype)),
                 rows.first.dtype, rows.first.stride},
                rows.width, vnni_factor, context_.kernels(), staging + n * depth);
  }
  return {staging, depth};
}

Row KeyColumn::query(const QueryTile& tile, std::int64_t r) const {
  return tiles_.query(*tile.block_rows, tile.first_row + r);
}

Row KeyColumn::dout(const QueryTile& tile, std::int64_t r) const {
  const QueryRow query = tiles_.query_row(tile, r);
  return context_.gradient_layout.output(query.batch, query.q_head, query.q_index);
}

bool KeyColumn::finite_rows(const HeadSlot& slot, const QueryTile& tile) {
  const std::int64_t row = tile.block_rows->first + tile.first_row;
  const auto all = [&](const std::uint8_t* finite) {
    return std::all_of(finite + row, finite + row + tile.rows, [](std::uint8_t f) { return f; });
  };
  return all(slot.query_finite) && all(slot.dout_finite);
}

void KeyColumn::multiply(const Product& product, const QueryTile& tile) const {
  context_.arithmetic().matmul({.a = product.rows,
                                .a_stride = product.row_stride,
                                .b = product.panels,
                                .c = product.to,
                                .c_stride = tile.score_stride,
                                .rows = product.count,
                                .columns = tile.visible_range.end,
                                .depth = product.depth,
                                .accumulate = false,
                                .prefetch = product.prefetch});
}

void KeyColumn::multiply(const HeadSlot& slot, QueryTile& tile, float* gradients,
                         const SavedScores& saved, kernels::PrefetchWalk* prefetch) {
  if (multiplied_) {
    copy_products(tile, gradients);
  } else {
    multiply_rows(slot, tile, gradients, prefetch);
  }
  if (!context_.pairs() && !finite_rows(slot, tile)) multiply_raw_rows(slot, tile, gradients);
  tiles_.transform(tile, saved);
}

void KeyColumn::multiply_rows(const HeadSlot& slot, const QueryTile& tile, float* gradients,
                              kernels::PrefetchWalk* prefetch) const {
  const BackwardPlan& plan = context_.plan;
  const std::int64_t row = tile.block_rows->first + tile.first_row;
  multiply({slot.queries + row * plan.query_stride, plan.query_stride, tile.rows, keys_transposed(),
            context_.blocking().key_depth, tile.scores, prefetch},
           tile);
  multiply({slot.douts + row * plan.dout_stride, plan.dout_stride, tile.rows, values_transposed(),
            plan.dout_depth, gradients},
           tile);
}

void KeyColumn::begin_block(const HeadSlot& slot, const QueryBlock& rows, std::int64_t column) {
  const BackwardPlan& plan = context_.plan;
  const KeyRange keys = tiles_.block_keys(column);
  multiplied_ =
      rows.count == plan.call.onednn_rows && intersection(rows.visible_to_all, keys) == keys;
  if (!multiplied_) return;
  scores_->execute(slot.queries + rows.first * plan.query_stride, scratch_.keys_transposed,
                   scratch_.score_block);
  gradients_->execute(slot.douts + rows.first * plan.dout_stride, scratch_.values_transposed,
                      scratch_.gradient_block);
}

void KeyColumn::copy_products(const QueryTile& tile, float* gradients) const {
  const std::int64_t kv_block = context_.blocking().kv_block;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t from = (tile.first_row + r) * kv_block;
    std::copy_n(scratch_.score_block + from, kv_block, tile.row(r));
    std::copy_n(scratch_.gradient_block + from, kv_block, gradients + r * tile.score_stride);
  }
}

/// The same products with what the rows hold, where they were packed with 0 in the place of what is
/// not finite.
void KeyColumn::multiply_raw_rows(const HeadSlot& slot, const QueryTile& tile,
                                  float* gradients) const {
  const Sizes& sizes = context_.sizes();
  const auto product = [&](const Row& row, std::int64_t depth, const kernels::Panels& panels,
                           float* to) {
    const float* const rows = as_floats(row, depth, context_.kernels(), scratch_.tiles.staging);
    multiply({rows, depth, 1, panels, depth, to}, tile);
  };
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.block_rows->first + tile.first_row + r;
    if (!slot.query_finite[row])
      product(query(tile, r), sizes.head_dim, keys_transposed(), tile.row(r));
    if (!slot.dout_finite[row]) {
      product(dout(tile, r), sizes.v_head_dim, values_transposed(),
              gradients + r * tile.score_stride);
    }
  }
}

}  // namespace attn::detail
