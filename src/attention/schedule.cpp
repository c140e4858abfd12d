#include "attention/schedule.hpp"

#include <algorithm>
#include <new>

namespace attn::detail {

Schedule::Schedule(std::span<SequenceWork> sequences, std::int64_t num_kv_heads, std::int64_t slots,
                   HeadWork* heads, HeadProgress* progress) noexcept
    : num_kv_heads_(num_kv_heads), heads_(heads), progress_(progress) {
  std::sort(sequences.begin(), sequences.end(), [](const SequenceWork& a, const SequenceWork& b) {
    const bool a_first = a.path == Path::cooperative, b_first = b.path == Path::cooperative;
    if (a_first != b_first) return a_first;
    return a.cost != b.cost ? a.cost > b.cost : a.batch < b.batch;
  });
  std::int64_t partials = 0;
  for (const SequenceWork& sequence : sequences) {
    if (sequence.compute_items == 0) continue;
    for (std::int64_t kv_head = 0; kv_head < num_kv_heads;
         ++kv_head, ++count_, partials += sequence.partial_rows) {
      // Cooperative heads come first: their numbers are consecutive, and slots are used in turn.
      heads_[count_] = {.path = sequence.path,
                        .batch = sequence.batch,
                        .kv_head = kv_head,
                        .pack_items = sequence.pack_items,
                        .compute_items = sequence.compute_items,
                        .slot = slots > 0 ? count_ % slots : 0,
                        .slot_before = count_ >= slots ? count_ - slots : -1,
                        .first_partial = partials};
      new (progress_ + count_) HeadProgress{0, 0, false};
    }
  }
  size_ = count_ > 0 ? heads_[0].pack_items : 0;
  for (std::int64_t stage = 0; stage < count_; ++stage) {
    heads_[stage].first_ticket = size_;
    size_ += packed_in_stage(stage) + heads_[stage].compute_items;
  }
}

std::int64_t Schedule::packed_in_stage(std::int64_t stage) const noexcept {
  return stage + 1 < count_ ? heads_[stage + 1].pack_items : 0;
}

WorkItem Schedule::item(std::int64_t ticket) const noexcept {
  if (ticket < heads_[0].first_ticket) return {WorkItem::Kind::pack, 0, ticket};
  const HeadWork* const next = std::upper_bound(
      heads_, heads_ + count_, ticket,
      [](std::int64_t wanted, const HeadWork& head) { return wanted < head.first_ticket; });
  const std::int64_t stage = next - heads_ - 1;
  if (is_split(heads_[stage].path)) return split_item(stage - heads_[stage].kv_head, ticket);
  const std::int64_t index = ticket - heads_[stage].first_ticket, packed = packed_in_stage(stage);
  if (index < packed) return {WorkItem::Kind::pack, stage + 1, index};
  return {WorkItem::Kind::compute, stage, heads_[stage].compute_items - 1 - (index - packed)};
}

/// The items go split by split, each split for all heads of a sequence: where the heads of a key
/// lie side by side, what one thread prefetches beyond its own head is what another thread needs.
WorkItem Schedule::split_item(std::int64_t first_head, std::int64_t ticket) const noexcept {
  const std::int64_t index = ticket - heads_[first_head].first_ticket;
  return {WorkItem::Kind::compute, first_head + index % num_kv_heads_, index / num_kv_heads_};
}

}  // namespace attn::detail
