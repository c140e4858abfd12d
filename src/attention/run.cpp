// Threads take work items off the schedule. An item packs a block of keys, computes a block of rows
// against packed keys (prefill.cpp, or full_rows.cpp for normalizers that need full rows), or
// computes few rows against keys that are read in place (decode.cpp).
#include "attention/run.hpp"

#include <algorithm>
#include <chrono>
#include <optional>

#include "attention/block_mask.hpp"
#include "attention/blockwise.hpp"
#include "attention/decode.hpp"
#include "attention/full_rows.hpp"
#include "attention/pack.hpp"
#include "attention/prefill.hpp"
#include "attention/schedule.hpp"
#include "attention/workspace.hpp"
#include "threads/parallel.hpp"
#include "threads/wait.hpp"

namespace attn::detail {
namespace {

/// The work of one thread.
class Worker {
 public:
  Worker(const CallContext& context, const Schedule& schedule, const Scratch& scratch, int thread)
      : context_(context),
        schedule_(schedule),
        scratch_(scratch),
        thread_(thread),
        own_(scratch.thread(thread)),
        packer_(context),
        prefill_(context, packer_, own_),
        full_rows_(context, packer_, own_),
        blockwise_(context, packer_, own_),
        decode_(context, own_) {}

  /// Takes items by ticket, since an item may wait for earlier ones.
  void work_in_order(Team& team) {
    const auto take = [&] { return scratch_.next_ticket()++; };
    for (std::int64_t ticket = take(); ticket < schedule_.size(); ticket = take())
      process_item(team, ticket, ticket + team.size());
  }

  /// Takes items of its own share first: a thread then reads one part of a cache, and the same one
  /// in the next call.
  void work_in_shares(Team& team, WorkStealingRange& range) {
    range.for_each(thread_, [&](std::int64_t ticket) { process_item(team, ticket, ticket + 1); });
  }

  /// `next` is the ticket that this thread will probably have next.
  void process_item(Team& team, std::int64_t ticket, std::int64_t next) {
    const WorkItem item = schedule_.item(ticket);
    if (item.kind == WorkItem::Kind::pack) return pack_ahead(item);
    switch (schedule_.head(item.head).path) {
      case Path::one_thread: return compute_head(team, item.head, next);
      case Path::cooperative: return compute_packed(team, item);
      case Path::unpacked:
      case Path::blockwise: return compute_split(team, item, next_keys(next));
    }
  }

 private:
  HeadQueries queries_of(std::int64_t head) const {
    const HeadWork& work = schedule_.head(head);
    const std::int64_t rows = context_.layout.q_len(work.batch) * context_.sizes().group_size;
    return {work.batch, work.kv_head, rows, context_.layout.visibility(work.batch)};
  }

  /// The keys from the first to the last that any query of the head sees.
  KeyRange visible_range(const HeadQueries& head) const {
    return head.visibility.visible_range(0, context_.layout.q_len(head.batch) - 1);
  }

  /// Keys that no query sees are not even read. oneDNN and the pass of full rows take the keys of a
  /// block whole, if any of them is seen.
  KeyRange keys_to_pack(const HeadQueries& head, std::int64_t block) const {
    const std::int64_t kv_block = context_.plan().packed.kv_block;
    const KeyRange visible =
        intersection(visible_range(head), {block * kv_block, (block + 1) * kv_block});
    const std::optional<BlockMask>& block_mask = context_.call.options.block_mask;
    if (!block_mask) return visible;
    const std::int64_t group_size = context_.sizes().group_size;
    const std::int64_t q_head = head.kv_head * group_size;
    const KeyRange needed = block_mask->blocks().needed_keys(
        {.batch = head.batch, .head_begin = q_head, .head_end = q_head + group_size}, visible);
    const bool whole = context_.plan().needs_full_rows || context_.plan().onednn_rows > 0;
    return whole && !needed.empty() ? visible : needed;
  }

  /// `index` counts the pieces of all blocks.
  void pack(const HeadQueries& head, std::int64_t index, const PackedHead& to) {
    packer_.pack({head.batch, head.kv_head}, index, keys_to_pack(head, index / to.pieces), to,
                 own_.staging);
  }

  void pack_ahead(const WorkItem& item) {
    const HeadWork& work = schedule_.head(item.head);
    if (work.slot_before >= 0) {
      wait_for(schedule_.progress(work.slot_before).computed,
               schedule_.head(work.slot_before).compute_items);
    }
    pack(queries_of(item.head), item.block, scratch_.packed(work.slot));
    schedule_.progress(item.head).packed.fetch_add(1, std::memory_order_release);
  }

  void compute_rows(const HeadQueries& head, std::int64_t q_block, const PackedHead& packed,
                    const std::optional<HeadIndex>& next_head) {
    if (context_.plan().needs_full_rows) return full_rows_.compute(head, q_block, packed);
    prefill_.compute(head, q_block, packed, next_head);
  }

  void compute_packed(Team& team, const WorkItem& item) {
    const HeadWork& work = schedule_.head(item.head);
    wait_for(schedule_.progress(item.head).packed, work.pack_items);
    team.attempt(
        [&] { compute_rows(queries_of(item.head), item.block, scratch_.packed(work.slot), {}); });
    schedule_.progress(item.head).computed.fetch_add(1, std::memory_order_release);
  }

  void compute_head(Team& team, std::int64_t index, std::int64_t next_ticket) {
    const HeadQueries head = queries_of(index);
    const PackedHead packed = scratch_.packed(thread_);
    for (std::int64_t block = 0; block < context_.plan().packed.kv_blocks; ++block)
      pack(head, block, packed);
    team.attempt([&] { compute_rows(head, 0, packed, next_head(next_ticket)); });
  }

  /// The head to prefetch: none if it would fill the cache.
  std::optional<HeadIndex> next_head(std::int64_t ticket) const {
    constexpr std::int64_t most_bytes = 256 * 1024;
    const Sizes& sizes = context_.sizes();
    const auto bytes = static_cast<std::int64_t>(size_of(context_.plan().kv_type)) * sizes.kv_len *
                       (sizes.head_dim + sizes.v_head_dim);
    if (ticket >= schedule_.size() || bytes > most_bytes) return std::nullopt;
    const HeadWork& next = schedule_.head(schedule_.item(ticket).head);
    return HeadIndex{next.batch, next.kv_head};
  }

  /// The keys of a split.
  KeyRange split_keys(const HeadQueries& head, const WorkItem& item) const {
    const KeyRange visible = visible_range(head);
    const Splits splits = choose_splits(visible.size(), context_.sizes());
    const std::int64_t begin = visible.begin + item.block * splits.keys;
    return {begin, std::min(begin + splits.keys, visible.end)};
  }

  NextKeys next_keys(std::int64_t ticket) const {
    if (ticket >= schedule_.size()) return {};
    const WorkItem item = schedule_.item(ticket);
    const HeadQueries head = queries_of(item.head);
    return {head.batch, head.kv_head, split_keys(head, item)};
  }

  /// The thread that computes the last split of a head merges all of them, in their order.
  void compute_split(Team& team, const WorkItem& item, const NextKeys& next) {
    const HeadQueries head = queries_of(item.head);
    const HeadWork& work = schedule_.head(item.head);
    HeadProgress& progress = schedule_.progress(item.head);
    const bool whole = work.compute_items == 1;
    const SoftmaxStates states =
        whole ? own_.states : scratch_.partial(work.first_partial + item.block * head.rows);
    team.attempt([&] {
      if (compute_part(work.path, head, split_keys(head, item), states, next))
        progress.tiny_values.store(true, std::memory_order_relaxed);
    });
    const std::int64_t others = progress.computed.fetch_add(1, std::memory_order_acq_rel);
    if (others + 1 < work.compute_items) return;
    team.attempt([&] {
      if (!whole) merge_parts(head, scratch_.partial(work.first_partial), work.compute_items);
      const bool tiny_values = progress.tiny_values.load(std::memory_order_relaxed);
      if (work.path == Path::blockwise) return blockwise_.finish(head, tiny_values);
      decode_.finish(head, tiny_values);
    });
  }

  /// Returns what the pass says of tiny values.
  bool compute_part(Path path, const HeadQueries& head, KeyRange keys, const SoftmaxStates& states,
                    const NextKeys& next) {
    if (path == Path::blockwise) return blockwise_.compute_part(head, keys, states, next);
    return decode_.compute_part(head, keys, states, next);
  }

  /// Merges the states of `count` parts, each of all rows of a head, into this thread's.
  void merge_parts(const HeadQueries& head, const SoftmaxStates& parts, std::int64_t count) {
    const std::int64_t width = context_.plan().packed.value_width;
    copy_states(parts, head.rows, width, own_.states);
    for (std::int64_t part = 1; part < count; ++part) {
      merge_states(parts.from(part * head.rows, width), head.rows, width,
                   context_.scores.remaining_scale(), own_.states);
    }
  }

  const CallContext& context_;
  const Schedule& schedule_;
  const Scratch& scratch_;
  int thread_;
  ThreadScratch own_;
  Packer packer_;
  PrefillPass prefill_;
  FullRowPass full_rows_;
  BlockwisePass blockwise_;
  DecodePass decode_;
};

SequenceWork sequence_work(const CallContext& context, std::int64_t batch) {
  const KvLayout& layout = context.layout;
  const std::int64_t q_len = layout.q_len(batch);
  const KeyRange visible = layout.visibility(batch).visible_range(0, q_len - 1);
  return plan_sequence(context.plan(), batch, q_len, layout.kv_len(batch), visible.size());
}

/// What all threads of a run share.
struct Run {
  Run(const PreparedCall& call, const AttentionTensors& tensors, void* memory)
      : scratch(call.plan, memory), context(call, tensors), schedule(make_schedule()) {}

  Schedule make_schedule() {
    const CallPlan& plan = context.plan();
    if (plan.scanned_rows > 0)
      context.scores.scan_mask(scratch.scanned_rows(), context.call.threads());
    for (std::int64_t batch = 0; batch < plan.sizes.batch; ++batch)
      scratch.sequences()[static_cast<std::size_t>(batch)] = sequence_work(context, batch);
    return Schedule(scratch.sequences(), plan.sizes.num_kv_heads, plan.packed_slots,
                    plan.heads_together, scratch.heads(), scratch.progress());
  }

  Scratch scratch;
  CallContext context;
  Schedule schedule;
};

bool is_empty(const PreparedCall& call) {
  return call.plan.sizes.batch == 0 || call.plan.sizes.num_q_heads == 0;
}

}  // namespace

void run(const PreparedCall& call, const AttentionTensors& tensors, void* memory) {
  if (is_empty(call)) return;
  Run run(call, tensors, memory);
  if (run.schedule.size() == 0) return;
  WorkStealingRange range(run.schedule.size(), call.plan.num_threads);
  parallel(call.threads(), [&](Team& team, int thread) {
    std::optional<Worker> worker;
    team.attempt([&] { worker.emplace(run.context, run.schedule, run.scratch, thread); });
    if (!worker) return;
    if (run.schedule.in_any_order()) return worker->work_in_shares(team, range);
    worker->work_in_order(team);
  });
}

std::vector<double> seconds_of_items(const PreparedCall& call, const AttentionTensors& tensors,
                                     void* memory) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  if (is_empty(call)) return seconds;
  Run run(call, tensors, memory);
  parallel(Threads{}, [&](Team& team, int thread) {
    team.attempt([&] {
      Worker worker(run.context, run.schedule, run.scratch, thread);
      for (std::int64_t ticket = 0; ticket < run.schedule.size(); ++ticket) {
        const Clock::time_point begin = Clock::now();
        worker.process_item(team, ticket, ticket + 1);
        seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
      }
    });
  });
  return seconds;
}

void with_schedule(const PreparedCall& call, const AttentionTensors& tensors, void* memory,
                   const std::function<void(const Schedule&)>& use) {
  if (!is_empty(call)) use(Run(call, tensors, memory).schedule);
}

}  // namespace attn::detail
