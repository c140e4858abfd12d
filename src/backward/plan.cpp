#include "backward/plan.hpp"

#include <algorithm>

#include "onednn/packed_matmul.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

/// Keys of a column and rows of a block. Packed K and V of a column, twice K, and its dK and dV
/// stay in L2 (230 KiB at dims of 64), and so do P and dS of a block (55 KiB each). Smaller ones
/// give more threads work, and let a column begin sooner after the one before.
struct BlockSizes {
  std::int64_t keys;
  std::int64_t rows;
};
constexpr BlockSizes wide = {most_column_keys, most_tiles* kernels::tile_rows};
constexpr BlockSizes narrow = {most_column_keys / 2, most_tiles / 2 * kernels::tile_rows};
static_assert(narrow.rows % 2 == 0);  // rows may be paired

/// Whole blocks of oneDNN must not depend on the number of threads.
BlockSizes choose_sizes(const BackwardPlanInput& input, bool onednn) {
  if (onednn) return wide;
  constexpr std::int64_t columns_per_thread = 4;
  const Sizes& sizes = input.sizes;
  const std::int64_t columns =
      saturating_product(sizes.batch * sizes.num_kv_heads, divide_up(sizes.kv_len, wide.keys));
  return columns >= columns_per_thread * input.max_threads ? wide : narrow;
}

Blocking choose_blocking(const BackwardPlanInput& input, bool bf16, bool onednn) {
  const Sizes& sizes = input.sizes;
  Blocking blocking;
  blocking.vnni_factor = bf16 ? 2 : 1;
  blocking.rows = sizes.q_len * sizes.group_size;
  const BlockSizes block = choose_sizes(input, onednn);
  blocking.q_block = block.rows;
  blocking.q_blocks = divide_up(blocking.rows, blocking.q_block);
  blocking.kv_block = block.keys;
  blocking.kv_blocks = divide_up(sizes.kv_len, blocking.kv_block);
  blocking.key_depth = divide_up(sizes.head_dim, blocking.vnni_factor);
  blocking.value_width = round_up(sizes.v_head_dim, input.widths.vector_width);
  return blocking;
}

/// Rows of `width` floats in panels that are as even as whole vectors allow, side by side in
/// memory.
kernels::PanelLayout rows_in_panels(std::int64_t width, const KernelWidths& widths) {
  const std::int64_t panels = divide_up(width, widths.panel_width);
  const std::int64_t panel = round_up(divide_up(width, panels), widths.vector_width);
  return {.row_stride = width, .panel_stride = panel, .panel_width = panel};
}

/// K and V as the operands of Q K^T and dout V^T. oneDNN takes the rows of Q and dout with their
/// padding, and panels in steps of depth.
void plan_transposed(BackwardPlan& plan) {
  const CallPlan& call = plan.call;
  const std::int64_t panel_width = call.panel_width;
  plan.transposed_keys = call.packed.key_depth;
  plan.transposed_values = plan.dout_depth;
  if (call.onednn_rows > 0) {
    const bool panels = call.packed_layout == PackedLayout::onednn_panels;
    const std::int64_t step = panels ? onednn::weight_depth_step : 1;
    plan.transposed_keys = round_up(plan.query_stride, step);
    plan.transposed_values = round_up(plan.dout_stride, step);
  }
  const auto layout = [&](std::int64_t depth) -> kernels::PanelLayout {
    if (call.packed_layout == PackedLayout::matrix)
      return {call.packed.kv_block, panel_width, panel_width};
    return {panel_width, depth * panel_width, panel_width};
  };
  plan.keys_transposed = layout(plan.transposed_keys);
  plan.values_transposed = layout(plan.transposed_values);
}

/// Whether there are so many heads that threads need not share one: then what a thread prepares
/// stays in its own cache. At most one head in 16 makes a thread wait for the others in the end.
bool takes_whole_heads(const BackwardPlan& plan, const BackwardPlanInput& input, std::int64_t heads,
                       int threads) {
  // Q, dout and dQ of long heads do not fit into a cache for each thread.
  constexpr std::int64_t most_floats = 1024 * 1024;
  const std::int64_t floats = saturating_product(
      plan.padded_rows, plan.query_stride + plan.dout_stride + plan.copies * plan.key_width);
  if (input.ragged || input.extras.heads_share_mask || floats > most_floats) return false;
  const bool even = heads % threads == 0 && heads >= threads;
  return even || heads >= std::int64_t{16} * threads;
}

void plan_threads(BackwardPlan& plan, const BackwardPlanInput& input) {
  const Sizes& sizes = input.sizes;
  const std::int64_t heads = sizes.batch * sizes.num_kv_heads;
  const std::int64_t items =
      std::max<std::int64_t>(std::max(plan.columns.count, plan.call.packed.q_blocks), 1);
  const int threads = static_cast<int>(std::clamp<std::int64_t>(
      saturating_product(heads, items), 1, useful_threads(sizes, input.max_threads)));
  plan.call.num_threads = threads;
  plan.whole_heads = takes_whole_heads(plan, input, heads, threads);
  // Else one head is computed while the next is prepared and the one before finished; short heads
  // do not keep all threads busy by themselves.
  const std::int64_t in_flight =
      plan.whole_heads ? threads : 3 + divide_up<std::int64_t>(2 * threads, items);
  plan.slots = std::min(heads, in_flight);
}

}  // namespace

std::int64_t Columns::in_turn(std::int64_t index) const noexcept {
  const std::int64_t pair = 2 * per_chunk, first = index / pair * pair;
  const std::int64_t in_pair = std::min(pair, count - first), of_pair = index - first;
  const std::int64_t second = in_pair - per_chunk;  // columns of the second chunk
  if (of_pair >= 2 * std::max<std::int64_t>(second, 0))
    return first + of_pair - std::max<std::int64_t>(second, 0);
  return first + of_pair / 2 + of_pair % 2 * per_chunk;
}

Columns columns_of(std::int64_t kv_len, std::int64_t kv_rows, std::int64_t kv_block) noexcept {
  Columns columns;
  columns.count = divide_up(kv_rows, kv_block);
  const std::int64_t chunk_keys =
      round_up(std::max<std::int64_t>(divide_up(kv_len, most_chunks), 1), most_column_keys);
  columns.per_chunk = chunk_keys / kv_block;
  return columns;
}

BackwardPlan make_backward_plan(const BackwardPlanInput& input) {
  const Sizes& sizes = input.sizes;
  BackwardPlan plan;
  CallPlan& call = plan.call;
  call.sizes = sizes;
  call.ragged = input.ragged;
  call.scanned_rows = input.scanned_rows;
  call.panel_width = input.widths.panel_width;
  const bool onednn =
      takes_onednn(input.score_matmul, input.multiplies_bf16, input.onednn) && has_products(sizes);
  const PackedLayout layout =
      onednn ? choose_packed_layout(input.onednn, input.widths, input.multiplies_bf16)
             : PackedLayout::panels;
  call.packed =
      choose_blocking(input, input.multiplies_bf16 && layout != PackedLayout::matrix, onednn);
  call.packed_layout = layout;
  call.onednn_rows = onednn ? call.packed.q_block : 0;
  plan.columns = columns_of(sizes.kv_len, sizes.kv_len, call.packed.kv_block);
  // A shorter sequence may have more chunks, of fewer columns.
  plan.copies = std::min(divide_up(sizes.kv_len, most_column_keys), most_chunks);
  plan.key_width = round_up(sizes.head_dim, input.widths.vector_width);
  plan.dout_depth = divide_up(sizes.v_head_dim, call.packed.vnni_factor);
  plan.padded_rows = saturating_product(call.packed.q_blocks, call.packed.q_block);
  plan.key_rows = rows_in_panels(plan.key_width, input.widths);
  plan.dout_rows = rows_in_panels(call.packed.value_width, input.widths);
  // Floats serve both as rows and as the operand that is summed over rows; pairs are packed twice.
  const bool pairs = call.packed.vnni_factor == 2;
  plan.query_stride = pairs ? call.packed.key_depth : plan.key_width;
  plan.dout_stride = pairs ? plan.dout_depth : call.packed.value_width;
  plan_transposed(plan);
  plan.total_rows = saturating_product(input.query_tokens, sizes.num_q_heads);
  plan.extras = input.extras;

  plan_threads(plan, input);
  return plan;
}

BackwardSchedule::BackwardSchedule(BackwardHead* heads, std::int64_t count) noexcept
    : heads_(heads), count_(count) {
  if (count == 0) return;
  size_ = heads[0].q_blocks;
  heads[count] = {};
  for (std::int64_t stage = 0; stage <= count; ++stage) {
    heads[stage].first_ticket = size_;
    if (stage + 1 < count) size_ += heads[stage + 1].q_blocks;
    size_ += heads[stage].columns.count;
    if (stage > 0) size_ += heads[stage - 1].q_blocks;
  }
}

BackwardItem BackwardSchedule::item(std::int64_t ticket) const noexcept {
  if (ticket < heads_[0].first_ticket) return {BackwardStep::prepare, 0, ticket};
  const BackwardHead* const next = std::upper_bound(
      heads_, heads_ + count_ + 1, ticket,
      [](std::int64_t wanted, const BackwardHead& head) { return wanted < head.first_ticket; });
  const std::int64_t stage = next - heads_ - 1;
  std::int64_t index = ticket - heads_[stage].first_ticket;
  const std::int64_t prepared = stage + 1 < count_ ? heads_[stage + 1].q_blocks : 0;
  if (index < prepared) return {BackwardStep::prepare, stage + 1, index};
  index -= prepared;
  const Columns& columns = heads_[stage].columns;
  if (index < columns.count) return {BackwardStep::column, stage, columns.in_turn(index)};
  return {BackwardStep::finish, stage - 1, index - columns.count};
}

}  // namespace attn::detail
