// Threads take work items off the schedule: blocks of rows to prepare, columns to compute, blocks
// of dQ to finish (plan.hpp). An item only waits for items with lower tickets.
#include "backward/run.hpp"

#include <limits>
#include <optional>

#include "backward/column.hpp"
#include "backward/rows.hpp"
#include "backward/score_sums.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"
#include "threads/wait.hpp"

namespace attn::detail {
namespace {

constexpr std::int64_t all_blocks = std::numeric_limits<std::int64_t>::max();

/// The work of one thread.
class BackwardWorker {
 public:
  BackwardWorker(const BackwardContext& context, const ScoreSums& sums,
                 const BackwardSchedule& schedule, const BackwardScratch& scratch, int thread)
      : context_(context),
        sums_(sums),
        schedule_(schedule),
        scratch_(scratch),
        thread_(thread),
        rows_(context, scratch, scratch.thread(thread)),
        column_(context, sums, scratch.thread(thread)) {}

  /// Takes items by ticket, since an item may wait for earlier ones.
  void work_in_order(Team& team) {
    const auto take = [&] { return (*scratch_.shared().next_ticket)++; };
    for (std::int64_t ticket = take(); ticket < schedule_.size(); ticket = take()) {
      const BackwardItem item = schedule_.item(ticket);
      switch (item.step) {
        case BackwardStep::prepare: prepare(team, item); break;
        case BackwardStep::column: compute(team, item); break;
        case BackwardStep::finish: finish(team, item); break;
      }
    }
  }

  /// Takes whole heads.
  void work_on_heads(Team& team, WorkStealingRange& range) {
    range.for_each(thread_, [&](std::int64_t head) { team.attempt([&] { compute_head(head); }); });
  }

 private:
  HeadQueries queries_of(std::int64_t head) const {
    const std::int64_t kv_heads = context_.sizes().num_kv_heads;
    return context_.queries_of({head / kv_heads, head % kv_heads});
  }
  HeadSlot slot(std::int64_t head) const { return scratch_.slot(head % context_.plan.slots); }
  BackwardScratch::Progress& progress(std::int64_t head) const {
    return scratch_.shared().progress[head];
  }
  std::atomic<std::int64_t>& column_progress(std::int64_t head, std::int64_t column) const {
    return scratch_.shared().columns[head * context_.plan.columns.count + column];
  }

  void compute_head(std::int64_t index) {
    const BackwardHead& head = schedule_.head(index);
    const HeadQueries queries = queries_of(index);
    const HeadSlot slot = scratch_.slot(thread_);
    for (std::int64_t block = 0; block < head.q_blocks; ++block)
      rows_.prepare(queries, block, slot, head.first_row);
    for (std::int64_t column = 0; column < head.columns.count; ++column) {
      const NextHeads next{next_head(index + 1), next_head(index + 1)};
      column_.compute(queries, column, head.columns, slot, {}, next);
    }
    for (std::int64_t block = 0; block < head.q_blocks; ++block)
      rows_.finish(queries, block, slot, head.columns, head.first_row);
  }

  /// Waits until the head that had the slot before is finished.
  void prepare(Team& team, const BackwardItem& item) {
    const std::int64_t before = item.head - context_.plan.slots;
    if (before >= 0) wait_for(progress(before).finished, schedule_.head(before).q_blocks);
    team.attempt([&] {
      rows_.prepare(queries_of(item.head), item.index, slot(item.head),
                    schedule_.head(item.head).first_row);
    });
    progress(item.head).prepared.fetch_add(1, std::memory_order_release);
  }

  void compute(Team& team, const BackwardItem& item) {
    const BackwardHead& head = schedule_.head(item.head);
    wait_for(progress(item.head).prepared, head.q_blocks);
    std::int64_t head_before = sums_.head_before(schedule_, item.head, item.index);
    if (head_before >= 0 && sums_.heads_take_turns()) {
      wait_for(progress(head_before).computed, schedule_.head(head_before).columns.count);
      head_before = -1;
    }
    std::atomic<std::int64_t>& own = column_progress(item.head, item.index);
    const HandOver hand_over{
        .column_before = head.columns.first_of_chunk(item.index)
                             ? nullptr
                             : &column_progress(item.head, item.index - 1),
        .head_before = head_before < 0 ? nullptr : &column_progress(head_before, item.index),
        .own = &own,
        .head_lead = context_.sizes().group_size > 1 ? 2 : 1};
    team.attempt([&] {
      column_.compute(queries_of(item.head), item.index, head.columns, slot(item.head), hand_over,
                      {next_head(item.head + 2), next_head(item.head + 1)});
    });
    own.store(all_blocks, std::memory_order_release);
    progress(item.head).computed.fetch_add(1, std::memory_order_release);
  }

  /// A head to prefetch, if there is one: the next head has been prepared, but not its keys.
  std::optional<HeadIndex> next_head(std::int64_t head) const {
    const std::int64_t kv_heads = context_.sizes().num_kv_heads;
    if (head >= context_.sizes().batch * kv_heads) return std::nullopt;
    return HeadIndex{head / kv_heads, head % kv_heads};
  }

  void finish(Team& team, const BackwardItem& item) {
    const BackwardHead& head = schedule_.head(item.head);
    wait_for(progress(item.head).computed, head.columns.count);
    team.attempt([&] {
      rows_.finish(queries_of(item.head), item.index, slot(item.head), head.columns,
                   head.first_row);
    });
    progress(item.head).finished.fetch_add(1, std::memory_order_release);
  }

  const BackwardContext& context_;
  const ScoreSums& sums_;
  const BackwardSchedule& schedule_;
  const BackwardScratch& scratch_;
  int thread_;
  BackwardRows rows_;
  ColumnPass column_;
};

BackwardSchedule schedule_of(const BackwardContext& context, BackwardHead* heads) {
  const Sizes& sizes = context.sizes();
  std::int64_t count = 0, first_row = 0;
  for (std::int64_t batch = 0; batch < sizes.batch; ++batch) {
    const std::int64_t rows = context.forward.layout.q_len(batch) * sizes.group_size;
    for (std::int64_t head = 0; head < sizes.num_kv_heads; ++head, first_row += rows) {
      heads[count++] = {.q_blocks = divide_up(rows, context.blocking().q_block),
                        .columns = context.columns_of_sequence(batch),
                        .first_row = first_row};
    }
  }
  return BackwardSchedule(heads, count);
}

}  // namespace

void run_backward(const PreparedBackward& call, const AttentionTensors& tensors,
                  const AttentionGradients& gradients, void* memory) {
  const BackwardScratch scratch(call.plan, memory);
  BackwardContext context(call, tensors, gradients);
  if (call.plan.call.scanned_rows > 0)
    context.forward.scores.scan_mask(scratch.shared().scanned_rows, call.call.threads());
  const BackwardSchedule schedule = schedule_of(context, scratch.shared().heads);
  const ScoreSums sums(context, scratch.shared());
  sums.start();
  WorkStealingRange heads(schedule.num_heads(), call.plan.call.num_threads);
  parallel(call.call.threads(), [&](Team& team, int thread) {
    std::optional<BackwardWorker> worker;
    team.attempt([&] { worker.emplace(context, sums, schedule, scratch, thread); });
    if (!worker) return;
    call.plan.whole_heads ? worker->work_on_heads(team, heads) : worker->work_in_order(team);
  });
  sums.write(schedule);
}

}  // namespace attn::detail
