#include "attention/plan.hpp"

#include <algorithm>

namespace attn {
namespace {

constexpr std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return divide_up(n, to) * to; }

/// K and V of a block of keys (words): they stay in L2 while a work item's rows pass over them.
constexpr std::int64_t kv_block_words = 64 * 1024;
/// Six rows of scores of a block (12 KiB at most) stay in L1.
constexpr std::int64_t max_kv_block = 512;
constexpr std::int64_t min_kv_block = 64;

/// Rows of a work item: enough to use each key in L2 many times, few enough to share out evenly.
constexpr std::int64_t preferred_q_block = 96;
constexpr std::int64_t least_q_block = 24;
/// A head with no more rows is not cut if there are heads enough for the threads: with a single block of keys a tile is done
/// with at once, and O need not wait in the cache for the next block.
constexpr std::int64_t uncut_rows = 192;
constexpr std::int64_t uncut_rows_of_one_block = 512;
constexpr std::int64_t items_per_thread = 4;

std::int64_t choose_kv_block(const Sizes& sizes, std::int64_t per_word, std::int64_t panel_width) {
  const std::int64_t fitting = kv_block_words * per_word / (sizes.head_dim + sizes.v_head_dim) / min_kv_block * min_kv_block;
  const std::int64_t preferred = std::clamp(fitting, min_kv_block, max_kv_block);
  return std::min(preferred, round_up(std::max<std::int64_t>(sizes.kv_len, 1), panel_width));
}

std::int64_t choose_q_block(const Blocking& blocking, std::int64_t heads, int num_threads) {
  const std::int64_t wanted_items = items_per_thread * num_threads;
  const std::int64_t uncut = blocking.kv_blocks <= 1 ? uncut_rows_of_one_block : uncut_rows;
  if (blocking.rows <= uncut && heads >= wanted_items) return uncut;
  const std::int64_t even = round_up(divide_up(blocking.rows * heads, wanted_items), kernels::tile_rows);
  return std::clamp(even, least_q_block, preferred_q_block);
}

}  // namespace

Blocking choose_blocking(const Sizes& sizes, const kernels::Kernels& kernels, std::int64_t per_word, int num_threads, bool fixed_q_block) {
  Blocking blocking;
  blocking.kv_block = choose_kv_block(sizes, per_word, kernels.panel_width);
  blocking.kv_blocks = divide_up(sizes.kv_len, blocking.kv_block);
  blocking.rows = sizes.q_len * sizes.group_size;
  const std::int64_t q_block =
      fixed_q_block ? preferred_q_block : choose_q_block(blocking, sizes.batch * sizes.num_kv_heads, num_threads);
  blocking.q_block = std::clamp<std::int64_t>(blocking.rows, 1, q_block);
  blocking.q_blocks = divide_up(blocking.rows, blocking.q_block);
  blocking.per_word = per_word;
  blocking.key_words = divide_up(sizes.head_dim, per_word);
  blocking.value_width = round_up(sizes.v_head_dim, kernels.vector_width);
  blocking.value_panels = divide_up(sizes.v_head_dim, kernels.panel_width);
  // As even as whole vectors allow: 80 dims as 48 + 32 keep more accumulators busy than 64 + 16.
  blocking.value_panel_width = round_up(divide_up(sizes.v_head_dim, blocking.value_panels), kernels.vector_width);
  return blocking;
}

int useful_threads(const Sizes& sizes, int num_threads) {
  // In cycles: 16 multiply-adds each, and one for every element of K and V that is packed.
  constexpr double multiply_adds_per_cycle = 16;
  constexpr double cycles_per_thread = 60'000;  // some 15 us, several times what waking and joining a thread takes
  const double elements =
      static_cast<double>(sizes.batch * sizes.num_kv_heads * sizes.kv_len) * static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const double cycles = elements * (static_cast<double>(sizes.group_size * sizes.q_len) / multiply_adds_per_cycle + 1);
  return static_cast<int>(std::clamp(cycles / cycles_per_thread, 1.0, static_cast<double>(num_threads)));
}

WorkList::WorkList(std::int64_t heads, const Blocking& blocking) noexcept
    : heads_(heads),
      packs_alone_(blocking.q_blocks == 1),
      pack_items_(packs_alone_ ? 0 : blocking.kv_blocks),
      compute_items_(blocking.q_blocks) {}

/// Head 0 is packed first; then, stage after stage, one head is packed and the one before it computed.
WorkItem WorkList::item(std::int64_t ticket) const noexcept {
  if (packs_alone_) return {WorkItem::Kind::pack_and_compute, ticket, 0};
  if (ticket < pack_items_) return {WorkItem::Kind::pack, 0, ticket};
  const std::int64_t head = (ticket - pack_items_) / (pack_items_ + compute_items_);
  const std::int64_t index = (ticket - pack_items_) % (pack_items_ + compute_items_);
  const std::int64_t packed_beside = head + 1 < heads_ ? pack_items_ : 0;
  if (index < packed_beside) return {WorkItem::Kind::pack, head + 1, index};
  return {WorkItem::Kind::compute, head, compute_items_ - 1 - (index - packed_beside)};
}

std::int64_t WorkList::slots(int num_threads) const noexcept {
  if (packs_alone_) return std::min<std::int64_t>(num_threads, heads_);
  return std::min<std::int64_t>(3, heads_);  // one being computed, one packed, one about to be free
}

}  // namespace attn
