// Threads take work items off the schedule: packing a block of keys, computing a block of rows
// against packed keys (row_block.cpp, or normalized_rows.cpp for normalizers that need whole rows),
// or few rows against keys where they lie (short_rows.cpp).
#include "attention/run.hpp"

#include <algorithm>
#include <optional>
#include <thread>

#include "attention/decode.hpp"
#include "attention/full_rows.hpp"
#include "attention/prefill.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

/// Spins: what is waited for is being done by another thread and takes microseconds. Yields when it
/// does not come, since that thread may be waiting for this processor.
void wait_for(const std::atomic<std::int64_t>& count, std::int64_t target) {
  for (int spins = 0; count.load(std::memory_order_acquire) < target; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

class Worker {
 public:
  Worker(const PreparedCall& prepared, const AttentionTensors& tensors, const KvLayout& layout,
         const RowScores& row_scores, const Schedule& schedule, const Scratch& scratch, int thread)
      : prepared_(prepared),
        layout_(layout),
        schedule_(schedule),
        scratch_(scratch),
        thread_(thread),
        own_(scratch.thread(thread)),
        packer_(prepared, layout),
        row_blocks_(prepared, tensors, layout, row_scores, packer_, own_),
        normalized_rows_(prepared, tensors, layout, row_scores, packer_, own_),
        short_rows_(prepared, tensors, layout, row_scores, own_) {}

  /// By ticket: an item may wait for those before it.
  void work_in_order(Team& team) {
    const auto take = [&] { return scratch_.next_ticket()++; };
    for (std::int64_t ticket = take(); ticket < schedule_.size(); ticket = take())
      process_item(team, ticket, ticket + team.size());
  }

  void work_in_shares(Team& team, WorkStealingRange& shares) {
    shares.for_each(thread_, [&](std::int64_t ticket) { process_item(team, ticket, ticket + 1); });
  }

 private:
  /// `next` is the ticket that this thread will have next, as far as it can tell.
  void process_item(Team& team, std::int64_t ticket, std::int64_t next) {
    const WorkItem item = schedule_.item(ticket);
    if (item.kind == WorkItem::Kind::pack) return pack_ahead(item);
    switch (schedule_.head(item.head).path) {
      case Path::one_thread: return one_thread_head(team, item.head, next);
      case Path::cooperative: return compute_packed(team, item);
      case Path::unpacked: return compute_in_place(team, item, probably_next_keys(next));
    }
  }

  HeadQueries place_of(std::int64_t head) const {
    const HeadWork& work = schedule_.head(head);
    const std::int64_t rows = layout_.q_len(work.batch) * prepared_.problem.sizes.group_size;
    return {work.batch, work.kv_head, rows, layout_.sight(work.batch)};
  }

  /// Keys that no query sees are not even read.
  void pack(const HeadQueries& place, std::int64_t block, const PackedHead& to) {
    packer_.pack(place.batch, place.kv_head, block,
                 place.sight.visible_range(0, layout_.q_len(place.batch) - 1), to, own_.staging);
  }

  void pack_ahead(const WorkItem& item) {
    const HeadWork& work = schedule_.head(item.head);
    if (work.slot_before >= 0)
      wait_for(schedule_.progress(work.slot_before).computed,
               schedule_.head(work.slot_before).compute_items);
    pack(place_of(item.head), item.block, scratch_.packed(work.slot));
    schedule_.progress(item.head).packed.fetch_add(1, std::memory_order_release);
  }

  void compute_rows(const HeadQueries& place, std::int64_t q_block, const PackedHead& packed,
                    const std::optional<HeadIndex>& next_head) {
    if (prepared_.needs_full_rows()) return normalized_rows_.compute(place, q_block, packed);
    row_blocks_.compute(place, q_block, packed, next_head);
  }

  void compute_packed(Team& team, const WorkItem& item) {
    const HeadWork& work = schedule_.head(item.head);
    wait_for(schedule_.progress(item.head).packed, work.pack_items);
    team.attempt(
        [&] { compute_rows(place_of(item.head), item.block, scratch_.packed(work.slot), {}); });
    schedule_.progress(item.head).computed.fetch_add(1, std::memory_order_release);
  }

  void one_thread_head(Team& team, std::int64_t head, std::int64_t next_ticket) {
    const HeadQueries place = place_of(head);
    const PackedHead packed = scratch_.packed(thread_);
    for (std::int64_t block = 0; block < prepared_.blocking.kv_blocks; ++block)
      pack(place, block, packed);
    team.attempt([&] { compute_rows(place, 0, packed, probably_next_head(next_ticket)); });
  }

  /// A head that would fill the cache is left alone.
  std::optional<HeadIndex> probably_next_head(std::int64_t ticket) const {
    constexpr std::int64_t most_bytes = 256 * 1024;
    const Sizes& sizes = prepared_.problem.sizes;
    const auto bytes = static_cast<std::int64_t>(size_of(prepared_.kv_type)) * sizes.kv_len *
                       (sizes.head_dim + sizes.v_head_dim);
    if (ticket >= schedule_.size() || bytes > most_bytes) return std::nullopt;
    const HeadWork& next = schedule_.head(schedule_.item(ticket).head);
    return HeadIndex{next.batch, next.kv_head};
  }

  /// The keys of an item that is computed in place.
  KeyRange keys_of(const HeadQueries& place, const WorkItem& item) const {
    const KeyRange visible = place.sight.visible_range(0, layout_.q_len(place.batch) - 1);
    const Splits splits = choose_splits(visible.size(), prepared_.problem.sizes);
    const std::int64_t begin = visible.begin + item.block * splits.keys;
    return {begin, std::min(begin + splits.keys, visible.end)};
  }

  NextKeys probably_next_keys(std::int64_t ticket) const {
    if (ticket >= schedule_.size()) return {};
    const WorkItem item = schedule_.item(ticket);
    const HeadQueries place = place_of(item.head);
    return {place.batch, place.kv_head, keys_of(place, item)};
  }

  void compute_in_place(Team& team, const WorkItem& item, const NextKeys& next) {
    const HeadQueries place = place_of(item.head);
    const HeadWork& work = schedule_.head(item.head);
    if (work.compute_items == 1) return team.attempt([&] { short_rows_.compute(place, next); });
    const RowStates states = scratch_.partial(work.first_partial + item.block * place.rows);
    team.attempt([&] { short_rows_.compute_part(place, keys_of(place, item), states, next); });
    const std::int64_t others =
        schedule_.progress(item.head).computed.fetch_add(1, std::memory_order_acq_rel);
    if (others + 1 < work.compute_items) return;
    team.attempt([&] {
      short_rows_.merge_parts(place, scratch_.partial(work.first_partial), work.compute_items);
    });
  }

  const PreparedCall& prepared_;
  const KvLayout& layout_;
  const Schedule& schedule_;
  const Scratch& scratch_;
  int thread_;
  ThreadScratch own_;
  Packer packer_;
  PrefillPass row_blocks_;
  FullRowPass normalized_rows_;
  DecodePass short_rows_;
};

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

SequenceWork entry_work(const PreparedCall& prepared, const KvLayout& layout, std::int64_t batch) {
  const std::int64_t q_len = layout.q_len(batch), kv_len = layout.kv_len(batch);
  const std::int64_t rows = q_len * prepared.problem.sizes.group_size;
  SequenceWork work{.batch = batch,
                    .path = path_of(prepared, q_len),
                    .pack_items = 0,
                    .compute_items = rows > 0 ? 1 : 0,
                    .partial_rows = 0,
                    .cost = static_cast<double>(q_len) * static_cast<double>(kv_len)};
  if (rows == 0 || work.path == Path::one_thread) return work;
  if (work.path == Path::cooperative) {
    work.pack_items = divide_up(kv_len, prepared.blocking.kv_block);
    work.compute_items = divide_up(rows, prepared.blocking.q_block);
    return work;
  }
  work.compute_items =
      choose_splits(layout.sight(batch).visible_range(0, q_len - 1).size(), prepared.problem.sizes)
          .count;
  work.partial_rows = work.compute_items > 1 ? work.compute_items * rows : 0;
  return work;
}

}  // namespace

Path path_of(const PreparedCall& prepared, std::int64_t q_len) noexcept {
  const std::int64_t rows = q_len * prepared.problem.sizes.group_size;
  const bool few = rows <= most_short_rows(prepared.kv_type);
  if (few && prepared.score_matmul == nullptr && !prepared.needs_full_rows()) return Path::unpacked;
  return prepared.blocking.q_blocks == 1 && !prepared.ragged ? Path::one_thread : Path::cooperative;
}

void run(const PreparedCall& prepared, const AttentionTensors& tensors, void* memory) {
  const Sizes& sizes = prepared.problem.sizes;
  if (sizes.batch == 0 || sizes.num_q_heads == 0) return;
  const Scratch scratch(prepared.scratch, memory);
  const KvLayout layout(prepared.problem, tensors);
  for (std::int64_t batch = 0; batch < sizes.batch; ++batch) {
    scratch.entries()[static_cast<std::size_t>(batch)] = entry_work(prepared, layout, batch);
  }
  const Schedule schedule(scratch.entries(), sizes.num_kv_heads, prepared.scratch.slots,
                          scratch.heads(), scratch.progress());
  if (schedule.size() == 0) return;
  const RowScores row_scores(prepared.problem, tensors, prepared.options, *prepared.kernels);
  WorkStealingRange shares(schedule.size(), prepared.num_threads);
  parallel(prepared.num_threads, [&](Team& team, int thread) {
    std::optional<Worker> worker;
    team.attempt(
        [&] { worker.emplace(prepared, tensors, layout, row_scores, schedule, scratch, thread); });
    if (!worker) return;
    if (schedule.in_any_order()) return worker->work_in_shares(team, shares);
    worker->work_in_order(team);
  });
}

}  // namespace attn::detail
