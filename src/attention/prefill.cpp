// Threads take work items off the list: packing a block of keys, or computing a block of rows (row_block.cpp).
#include "attention/prefill.hpp"

#include <optional>
#include <thread>

#include "attention/parallel.hpp"
#include "attention/row_block.hpp"

namespace attn {
namespace {

/// Spins: what is waited for is being done by another thread and takes microseconds. Yields when it does not come,
/// since that thread may be waiting for this processor.
void wait_for(const std::atomic<std::int64_t>& count, std::int64_t target) {
  for (int spins = 0; count.load(std::memory_order_acquire) < target; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

class Worker {
 public:
  Worker(const PreparedCall& prepared, const Tensors& tensors, const RowScores& row_scores, const Scratch& scratch, int thread)
      : prepared_(prepared),
        tensors_(tensors),
        scratch_(scratch),
        thread_(thread),
        own_(scratch.thread(thread)),
        packer_(prepared, tensors),
        pass_(prepared, tensors, row_scores, packer_, own_) {}

  void work(Team& team) {
    for (std::int64_t ticket = scratch_.next_ticket()++; ticket < prepared_.work.size(); ticket = scratch_.next_ticket()++) {
      const WorkItem item = prepared_.work.item(ticket);
      switch (item.kind) {
        case WorkItem::Kind::pack: pack_ahead(item); break;
        case WorkItem::Kind::compute: compute_packed(team, item); break;
        case WorkItem::Kind::pack_and_compute: pack_and_compute(team, item); break;
      }
    }
  }

 private:
  HeadPlace place_of(std::int64_t head) const {
    const std::int64_t batch = head / prepared_.problem.sizes.num_kv_heads;
    const std::int64_t kv_length = attn::kv_length(tensors_, prepared_.problem.sizes, batch);
    const DenseMask mask = dense_mask(tensors_, prepared_.problem.sizes);
    return {batch, head % prepared_.problem.sizes.num_kv_heads, Sight(prepared_.problem, kv_length, mask.kv_len)};
  }

  /// Keys that no query sees are not even read.
  void pack(const HeadPlace& place, std::int64_t block, const PackedHead& to) {
    const KeyRange wanted = place.sight.hull(0, prepared_.problem.sizes.q_len - 1);
    packer_.pack(place.batch, place.kv_head, block, wanted, to, own_.staging);
  }

  void pack_ahead(const WorkItem& item) {
    const std::int64_t slots = prepared_.scratch.slots;
    SlotProgress& progress = scratch_.progress(item.head % slots);
    wait_for(progress.computed, item.head / slots * prepared_.work.compute_items());
    pack(place_of(item.head), item.block, scratch_.packed(item.head % slots));
    progress.packed.fetch_add(1, std::memory_order_release);
  }

  void compute_packed(Team& team, const WorkItem& item) {
    const std::int64_t slots = prepared_.scratch.slots;
    SlotProgress& progress = scratch_.progress(item.head % slots);
    wait_for(progress.packed, (item.head / slots + 1) * prepared_.work.pack_items());
    team.attempt([&] { pass_.compute(place_of(item.head), item.block, scratch_.packed(item.head % slots)); });
    progress.computed.fetch_add(1, std::memory_order_release);
  }

  void pack_and_compute(Team& team, const WorkItem& item) {
    const HeadPlace place = place_of(item.head);
    const PackedHead packed = scratch_.packed(thread_);
    for (std::int64_t block = 0; block < prepared_.blocking.kv_blocks; ++block) pack(place, block, packed);
    team.attempt([&] { pass_.compute(place, item.block, packed, probably_next(team, item.head)); });
  }

  /// Threads take heads at one pace, more or less. A head that would fill the cache is left alone.
  std::optional<HeadIndex> probably_next(const Team& team, std::int64_t head) const {
    constexpr std::int64_t most_bytes = 256 * 1024;
    const Sizes& sizes = prepared_.problem.sizes;
    const std::int64_t next = head + team.size();
    const auto bytes = static_cast<std::int64_t>(size_of(tensors_.k.dtype)) * sizes.kv_len * (sizes.head_dim + sizes.v_head_dim);
    if (next >= prepared_.work.size() || bytes > most_bytes) return std::nullopt;
    return HeadIndex{next / sizes.num_kv_heads, next % sizes.num_kv_heads};
  }

  const PreparedCall& prepared_;
  const Tensors& tensors_;
  const Scratch& scratch_;
  int thread_;
  ThreadScratch own_;
  Packer packer_;
  RowBlockPass pass_;
};

}  // namespace

void run_prefill(const PreparedCall& prepared, const Tensors& tensors, void* memory) {
  if (prepared.work.size() == 0) return;
  const Scratch scratch(prepared.scratch, memory);
  const RowScores row_scores(prepared.problem, tensors, prepared.options, *prepared.kernels);
  parallel(prepared.num_threads, [&](Team& team, int thread) {
    std::optional<Worker> worker;
    team.attempt([&] { worker.emplace(prepared, tensors, row_scores, scratch, thread); });
    if (worker) worker->work(team);
  });
}

}  // namespace attn
