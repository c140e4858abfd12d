#include "attention/schedule.hpp"

#include <algorithm>
#include <new>

namespace attn::detail {

Schedule::Schedule(std::span<SequenceWork> sequences, std::int64_t num_kv_heads, std::int64_t slots,
                   std::int64_t heads_together, HeadWork* heads, HeadProgress* progress) noexcept
    : num_kv_heads_(num_kv_heads),
      heads_together_(heads_together),
      heads_(heads),
      progress_(progress) {
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
  make_groups();
  size_ = count_ > 0 ? pack_items_of(0) : 0;
  for (std::int64_t group = 0; group < count_; group = heads_[group].group_end) {
    const std::int64_t first_ticket = size_;
    size_ += pack_items_of(heads_[group].group_end);
    for (std::int64_t head = group; head < heads_[group].group_end; ++head) {
      heads_[head].first_ticket = first_ticket;
      size_ += heads_[head].compute_items;
    }
  }
}

/// A group has heads of the same numbers of items, so that an item is found without a search. The
/// heads of a sequence whose keys are split are one group.
void Schedule::make_groups() noexcept {
  for (std::int64_t begin = 0; begin < count_;) {
    const HeadWork& first = heads_[begin];
    const std::int64_t most =
        first.path == Path::cooperative ? heads_together_ : num_kv_heads_ - first.kv_head;
    std::int64_t end = begin + 1;
    while (end < std::min(begin + most, count_) && heads_[end].path == first.path &&
           heads_[end].pack_items == first.pack_items &&
           heads_[end].compute_items == first.compute_items)
      ++end;
    for (std::int64_t head = begin; head < end; ++head) {
      heads_[head].group_begin = begin;
      heads_[head].group_end = end;
    }
    begin = end;
  }
}

/// Of a group.
std::int64_t Schedule::pack_items_of(std::int64_t first_head) const noexcept {
  if (first_head == count_) return 0;
  const HeadWork& first = heads_[first_head];
  return first.pack_items * (first.group_end - first.group_begin);
}

WorkItem Schedule::pack_item(std::int64_t first_head, std::int64_t index) const noexcept {
  const std::int64_t blocks = heads_[first_head].pack_items;
  return {WorkItem::Kind::pack, first_head + index / blocks, index % blocks};
}

WorkItem Schedule::item(std::int64_t ticket) const noexcept {
  if (ticket < heads_[0].first_ticket) return pack_item(0, ticket);
  const HeadWork* const later = std::upper_bound(
      heads_, heads_ + count_, ticket,
      [](std::int64_t wanted, const HeadWork& head) { return wanted < head.first_ticket; });
  const HeadWork& last = *(later - 1);
  std::int64_t index = ticket - last.first_ticket;
  const std::int64_t packed = pack_items_of(last.group_end);
  if (index < packed) return pack_item(last.group_end, index);
  index -= packed;
  // The same block of all heads, then the next one. Splits go up, since where the heads of a key
  // lie side by side, what one thread prefetches beyond its own head is what another thread needs.
  // Rows go down.
  const std::int64_t heads = last.group_end - last.group_begin, block = index / heads;
  return {WorkItem::Kind::compute, last.group_begin + index % heads,
          is_split(last.path) ? block : last.compute_items - 1 - block};
}

}  // namespace attn::detail
