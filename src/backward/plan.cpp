#include "backward/plan.hpp"

#include <algorithm>

#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

/// Packed K and V of a column, twice K, and its dK and dV stay in L2: 80 KiB at dims of 64.
constexpr std::int64_t column_keys = 64;
/// Rows of a block, whose P and dS (15 KiB each) wait in the cache for the products that sum over
/// rows. A multiple of tile_rows, and even, as rows may be paired.
constexpr std::int64_t block_rows = most_tiles * kernels::tile_rows;
static_assert(block_rows % 2 == 0);

Blocking choose_blocking(const BackwardPlanInput& input) {
  const Sizes& sizes = input.sizes;
  Blocking blocking;
  blocking.vnni_factor = input.multiplies_bf16 ? 2 : 1;
  blocking.rows = sizes.q_len * sizes.group_size;
  blocking.q_block = block_rows;
  blocking.q_blocks = divide_up(blocking.rows, blocking.q_block);
  blocking.kv_block = column_keys;
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
  columns.per_chunk =
      std::max<std::int64_t>(divide_up(divide_up(kv_len, kv_block), most_chunks), 1);
  return columns;
}

BackwardPlan make_backward_plan(const BackwardPlanInput& input) {
  const Sizes& sizes = input.sizes;
  BackwardPlan plan;
  CallPlan& call = plan.call;
  call.sizes = sizes;
  call.ragged = input.ragged;
  call.panel_width = input.widths.panel_width;
  call.packed = choose_blocking(input);
  plan.columns = columns_of(sizes.kv_len, sizes.kv_len, column_keys);
  // A shorter sequence may have more chunks, of fewer columns.
  plan.copies = std::min(plan.columns.count, most_chunks);
  plan.key_width = round_up(sizes.head_dim, input.widths.vector_width);
  plan.dout_depth = divide_up(sizes.v_head_dim, call.packed.vnni_factor);
  plan.padded_rows = saturating_product(call.packed.q_blocks, call.packed.q_block);
  plan.key_rows = rows_in_panels(plan.key_width, input.widths);
  plan.dout_rows = rows_in_panels(call.packed.value_width, input.widths);
  // Floats serve both as rows and as the operand that is summed over rows; pairs are packed twice.
  const bool pairs = call.packed.vnni_factor == 2;
  plan.query_stride = pairs ? call.packed.key_depth : plan.key_width;
  plan.dout_stride = pairs ? plan.dout_depth : call.packed.value_width;
  plan.total_rows = saturating_product(input.query_tokens, sizes.num_q_heads);
  plan.extras = input.extras;

  const std::int64_t heads = sizes.batch * sizes.num_kv_heads;
  const std::int64_t items =
      std::max<std::int64_t>(std::max(plan.columns.count, call.packed.q_blocks), 1);
  call.num_threads = static_cast<int>(std::clamp<std::int64_t>(
      saturating_product(heads, items), 1, useful_threads(sizes, input.max_threads)));
  // One head is computed while the next is prepared and the one before finished; short heads do not
  // keep all threads busy by themselves.
  const std::int64_t in_flight = 3 + divide_up<std::int64_t>(2 * call.num_threads, items);
  plan.slots = std::min(heads, in_flight);
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
