// Policy: how a call is cut into blocks and work items. Integers in, integers out, no tensors.
#pragma once

#include <cstdint>

#include "attention/problem.hpp"
#include "kernels/kernels.hpp"

namespace attn {

/// The rows of a KV head are its queries times its group of heads, position-major: row = q_index * group_size + member.
/// Neighbouring rows then see nearly the same keys and share each packed key, for any group size and q_len.
struct Blocking {
  std::int64_t rows = 0;      // of a KV head
  std::int64_t q_block = 0;   // rows of a work item
  std::int64_t kv_block = 0;  // keys that a work item takes at a time, a multiple of the panel width
  std::int64_t q_blocks = 0;  // per KV head
  std::int64_t kv_blocks = 0;
  std::int64_t per_word = 1;     // operands of a multiplication in 32 bits
  std::int64_t key_words = 0;    // of a query's or key's head_dim
  std::int64_t value_width = 0;  // v_head_dim, up to whole vectors
  std::int64_t value_panels = 0;
  std::int64_t value_panel_width = 0;  // columns of V in a panel

  std::int64_t value_words() const noexcept { return kv_block / per_word; }  // of a block's keys, as the depth of P V
};

/// kv_block decides the order of sums, so it depends on the sizes of one head alone, or bits would depend on the rest of the
/// batch. q_block decides who computes a row, and with fixed_q_block (a matmul primitive's rows) the same holds for it.
Blocking choose_blocking(const Sizes& sizes, const kernels::Kernels& kernels, std::int64_t per_word, int num_threads, bool fixed_q_block);

/// As many of num_threads as have enough to do to be worth waking: at least 1.
int useful_threads(const Sizes& sizes, int num_threads);

/// What is done for KV heads 0, 1, ... (batch-major): each head's K and V are packed, a block of keys at a time, and then
/// its rows are computed, a block at a time and the last, longest ones first. Threads take items in the order of their
/// tickets, so an item waits only for items that somebody has taken before. Packing runs one head ahead, so that it is
/// seldom waited for. With one block of rows a head, whoever computes it packs it too, and nobody waits.
struct WorkItem {
  enum class Kind { pack, compute, pack_and_compute } kind;
  std::int64_t head;
  std::int64_t block;  // of keys to pack, or of rows to compute
  friend bool operator==(const WorkItem&, const WorkItem&) = default;
};

class WorkList {
 public:
  WorkList() = default;
  WorkList(std::int64_t heads, const Blocking& blocking) noexcept;

  std::int64_t size() const noexcept { return heads_ * (pack_items_ + compute_items_); }
  WorkItem item(std::int64_t ticket) const noexcept;
  bool packs_alone() const noexcept { return packs_alone_; }
  /// Items of one head.
  std::int64_t pack_items() const noexcept { return pack_items_; }
  std::int64_t compute_items() const noexcept { return compute_items_; }
  /// Heads whose packed keys and values exist at the same time.
  std::int64_t slots(int num_threads) const noexcept;

 private:
  std::int64_t heads_ = 0;
  bool packs_alone_ = false;
  std::int64_t pack_items_ = 0;
  std::int64_t compute_items_ = 0;
};

}  // namespace attn
