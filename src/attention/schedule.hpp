// Who does what, and in which order: the work of a call as items that threads take by ticket.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

namespace attn::detail {

/// How the rows of a KV head are computed.
enum class Path {
  one_thread,   // one thread packs K and V and computes all rows
  cooperative,  // blocks of keys are packed, then blocks of rows computed, by whoever comes
  unpacked,     // few rows: K and V where they lie, perhaps in splits
};

/// One KV head of one batch entry.
struct HeadWork {
  Path path = Path::one_thread;
  std::int64_t batch = 0;
  std::int64_t kv_head = 0;
  std::int64_t pack_items = 0;
  std::int64_t compute_items = 0;
  std::int64_t first_ticket =
      0;                  // of its stage: the packing of the next head and its own computing
  std::int64_t slot = 0;  // shared: where its packed K and V go
  std::int64_t slot_before = -1;  // shared: the head that had the slot before, or -1
  std::int64_t first_partial =
      0;  // in_place, split: the row of partial results that its first split begins with
};

/// Counts of finished items of a head.
struct HeadProgress {
  std::atomic<std::int64_t> packed;
  std::atomic<std::int64_t> computed;
};

struct WorkItem {
  enum class Kind { pack, compute } kind;
  std::int64_t head;   // an index into the schedule's heads
  std::int64_t block;  // of keys to pack; of rows to compute, or the split
  friend bool operator==(const WorkItem&, const WorkItem&) = default;
};

/// What there is to do for each KV head of one batch entry.
struct SequenceWork {
  std::int64_t batch;
  Path path;
  std::int64_t pack_items;
  std::int64_t compute_items;
  std::int64_t partial_rows;
  double cost;
};

/// Heads are computed one after another, stage by stage; a shared head is packed one stage ahead,
/// so that its packing is seldom waited for, and its last rows, which a causal mask makes the
/// longest, are computed first. Threads take items in the order of their tickets, so an item waits
/// only for items that somebody has taken before.
class Schedule {
 public:
  /// In memory for entries.size() * num_kv_heads of each. Sorts the entries: shared ones first,
  /// then the costliest.
  Schedule(std::span<SequenceWork> entries, std::int64_t num_kv_heads, std::int64_t slots,
           HeadWork* heads, HeadProgress* progress) noexcept;

  std::int64_t size() const noexcept { return size_; }
  /// No item waits for another one.
  bool in_any_order() const noexcept { return count_ == 0 || heads_[0].path != Path::cooperative; }
  std::int64_t num_heads() const noexcept { return count_; }
  WorkItem item(std::int64_t ticket) const noexcept;
  const HeadWork& head(std::int64_t index) const noexcept { return heads_[index]; }
  HeadProgress& progress(std::int64_t index) const noexcept { return progress_[index]; }

 private:
  std::int64_t packed_in_stage(std::int64_t stage) const noexcept;
  WorkItem in_place_item(std::int64_t first_head, std::int64_t ticket) const noexcept;

  std::int64_t num_kv_heads_;
  HeadWork* heads_;
  HeadProgress* progress_;
  std::int64_t count_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace attn::detail
