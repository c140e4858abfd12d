// The work of a run as items that threads take by their numbers, which are called tickets.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "attention/plan.hpp"

namespace attn::detail {

/// The work on one KV head of one sequence.
struct HeadWork {
  Path path = Path::one_thread;
  std::int64_t batch = 0;
  std::int64_t kv_head = 0;
  std::int64_t pack_items = 0;
  std::int64_t compute_items = 0;
  // Of its group: the first ticket, which packs the next group or computes this one, and its heads.
  std::int64_t first_ticket = 0;
  std::int64_t group_begin = 0;
  std::int64_t group_end = 0;
  // Cooperative heads: the slot of the packed K and V, and the head that had it before, or -1.
  std::int64_t slot = 0;
  std::int64_t slot_before = -1;
  // Split heads: the row of partial results where the first split begins.
  std::int64_t first_partial = 0;
};

/// The numbers of finished items of a head, and what they found.
struct HeadProgress {
  std::atomic<std::int64_t> packed;
  std::atomic<std::int64_t> computed;
  std::atomic<bool> tiny_values;  // of split heads: some values are not finite, or tiny in bf16
};

struct WorkItem {
  enum class Kind { pack, compute } kind;
  std::int64_t head;   // an index into the schedule's heads
  std::int64_t block;  // of keys to pack; of rows to compute, or the split
  friend bool operator==(const WorkItem&, const WorkItem&) = default;
};

/// Heads are computed group by group. Before a group is computed, the next one is packed, so that
/// computing seldom waits for it. The last rows of all heads of a group, which see the most keys
/// under a causal mask, are computed first: so threads are done at about the same time. Threads
/// take items in the order of their tickets, so an item only waits for items that some thread has
/// taken before.
class Schedule {
 public:
  /// `heads` and `progress` have room for sequences.size() * num_kv_heads elements. Sorts the
  /// sequences: cooperative ones first, then the costliest. Cooperative heads form groups of up to
  /// heads_together; there are at least twice as many slots, or one for each head.
  Schedule(std::span<SequenceWork> sequences, std::int64_t num_kv_heads, std::int64_t slots,
           std::int64_t heads_together, HeadWork* heads, HeadProgress* progress) noexcept;

  std::int64_t size() const noexcept { return size_; }
  /// Whether no item waits for another one.
  bool in_any_order() const noexcept { return count_ == 0 || heads_[0].path != Path::cooperative; }
  std::int64_t num_heads() const noexcept { return count_; }
  WorkItem item(std::int64_t ticket) const noexcept;
  const HeadWork& head(std::int64_t index) const noexcept { return heads_[index]; }
  HeadProgress& progress(std::int64_t index) const noexcept { return progress_[index]; }

 private:
  void make_groups() noexcept;
  std::int64_t pack_items_of(std::int64_t first_head) const noexcept;
  WorkItem pack_item(std::int64_t first_head, std::int64_t index) const noexcept;

  std::int64_t num_kv_heads_;
  std::int64_t heads_together_;
  HeadWork* heads_;
  HeadProgress* progress_;
  std::int64_t count_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace attn::detail
