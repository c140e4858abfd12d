#include "attention/plan.hpp"

#include <algorithm>

namespace attn::detail {
namespace {

constexpr std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return divide_up(n, to) * to; }

/// K and V of a block of keys (words): they stay in L2 while a work item's rows pass over them.
constexpr std::int64_t kv_block_floats = 64 * 1024;
/// Six rows of scores of a block (12 KiB at most) stay in L1.
constexpr std::int64_t max_kv_block = 512;
constexpr std::int64_t min_kv_block = 64;

/// Rows of a work item: enough to use each key in L2 many times, few enough to share out evenly.
constexpr std::int64_t preferred_q_block = 96;
constexpr std::int64_t least_q_block = 24;
/// A head with no more rows is not cut if there are heads enough for the threads: with a single
/// block of keys a tile is done with at once, and O need not wait in the cache for the next block.
constexpr std::int64_t uncut_rows = 192;
constexpr std::int64_t uncut_rows_of_one_block = 512;
constexpr std::int64_t items_per_thread = 4;

constexpr std::int64_t splits_at_most = 16;
constexpr std::int64_t split_step = 128;

/// Enough to be worth an item of its own: some 20 us from memory as f32.
std::int64_t least_split_keys(const Sizes& sizes) {
  constexpr std::int64_t elements = 128 * 1024;
  return round_up(divide_up(elements, sizes.head_dim + sizes.v_head_dim), split_step);
}

std::int64_t choose_kv_block(const Sizes& sizes, std::int64_t vnni_factor,
                             std::int64_t panel_width) {
  const std::int64_t fitting = kv_block_floats * vnni_factor / (sizes.head_dim + sizes.v_head_dim) /
                               min_kv_block * min_kv_block;
  const std::int64_t preferred = std::clamp(fitting, min_kv_block, max_kv_block);
  return std::min(preferred, round_up(std::max<std::int64_t>(sizes.kv_len, 1), panel_width));
}

std::int64_t choose_q_block(const Blocking& blocking, std::int64_t heads, int num_threads) {
  const std::int64_t wanted_items = items_per_thread * num_threads;
  const std::int64_t uncut = blocking.kv_blocks <= 1 ? uncut_rows_of_one_block : uncut_rows;
  if (blocking.rows <= uncut && heads >= wanted_items) return uncut;
  const std::int64_t even =
      round_up(divide_up(blocking.rows * heads, wanted_items), kernels::tile_rows);
  return std::clamp(even, least_q_block, preferred_q_block);
}

}  // namespace

Blocking choose_blocking(const Sizes& sizes, const kernels::Kernels& kernels,
                         std::int64_t vnni_factor, int num_threads, bool fixed_q_block) {
  Blocking blocking;
  blocking.kv_block = choose_kv_block(sizes, vnni_factor, kernels.panel_width);
  blocking.kv_blocks = divide_up(sizes.kv_len, blocking.kv_block);
  blocking.rows = sizes.q_len * sizes.group_size;
  const std::int64_t q_block =
      fixed_q_block ? preferred_q_block
                    : choose_q_block(blocking, sizes.batch * sizes.num_kv_heads, num_threads);
  blocking.q_block = std::clamp<std::int64_t>(blocking.rows, 1, q_block);
  blocking.q_blocks = divide_up(blocking.rows, blocking.q_block);
  blocking.vnni_factor = vnni_factor;
  blocking.key_depth = divide_up(sizes.head_dim, vnni_factor);
  blocking.value_width = round_up(sizes.v_head_dim, kernels.vector_width);
  blocking.value_panels = divide_up(sizes.v_head_dim, kernels.panel_width);
  // As even as whole vectors allow: 80 dims as 48 + 32 keep more accumulators busy than 64 + 16.
  blocking.value_panel_width =
      round_up(divide_up(sizes.v_head_dim, blocking.value_panels), kernels.vector_width);
  return blocking;
}

int useful_threads(const Sizes& sizes, int num_threads) {
  // In cycles: 16 multiply-adds each, and one for every element of K and V that is packed.
  constexpr double multiply_adds_per_cycle = 16;
  constexpr double cycles_per_thread =
      60'000;  // some 15 us, several times what waking and joining a thread takes
  const double elements = static_cast<double>(sizes.batch * sizes.num_kv_heads * sizes.kv_len) *
                          static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const double cycles =
      elements *
      (static_cast<double>(sizes.group_size * sizes.q_len) / multiply_adds_per_cycle + 1);
  return static_cast<int>(
      std::clamp(cycles / cycles_per_thread, 1.0, static_cast<double>(num_threads)));
}

std::int64_t most_short_rows(DType kv_type) {
  // Measured: floats and bf16 are multiplied as they are once packed; what has to be widened for
  // that costs a pass more.
  switch (kv_type) {
    case DType::f32:
    case DType::bf16: return 32;
    default: return 48;
  }
}

Blocking choose_short_blocking(const Sizes& sizes, const kernels::Kernels& kernels, DType kv_type) {
  constexpr std::int64_t keys = 128;  // K and V of a block, 128 KiB of f32 at dims of 128, come to
                                      // the cache and are used there
  Blocking blocking;
  blocking.rows = std::min(sizes.q_len * sizes.group_size, most_short_rows(kv_type));
  blocking.q_block = blocking.rows;
  blocking.q_blocks = 1;
  blocking.kv_block = keys;
  blocking.kv_blocks = divide_up(sizes.kv_len, keys);
  blocking.key_depth = round_up(sizes.head_dim, kernels.vector_width);
  blocking.value_width = round_up(sizes.v_head_dim, kernels.vector_width);
  return blocking;
}

Splits choose_splits(std::int64_t visible_keys, const Sizes& sizes) {
  const std::int64_t even = round_up(divide_up(visible_keys, splits_at_most), split_step);
  const std::int64_t keys = std::max(least_split_keys(sizes), even);
  return {std::max<std::int64_t>(divide_up(visible_keys, keys), 1), keys};
}

std::int64_t most_splits(std::int64_t keys, const Sizes& sizes) {
  return std::clamp<std::int64_t>(divide_up(keys, least_split_keys(sizes)), 1, splits_at_most);
}

}  // namespace attn::detail
