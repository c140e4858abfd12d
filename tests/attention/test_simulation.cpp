// Schedules for many threads, replayed with the work of their items: threads seldom wait.
#include <attn/isa.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention/simulate.hpp"
#include "kernels/select.hpp"

using namespace attn;
using namespace attn::detail;

namespace {

struct Shape {
  std::int64_t batch, heads, kv_heads, tokens, dim;
  bool causal;
};

/// A schedule for a number of threads, and the cycles of its items: 16 multiply-adds each, and what
/// packing and beginning an item take.
struct Simulation {
  Simulation(const Shape& s, int num_threads)
      : shape(s),
        plan(make_plan({.sizes = {.batch = s.batch,
                                  .num_q_heads = s.heads,
                                  .num_kv_heads = s.kv_heads,
                                  .group_size = s.heads / s.kv_heads,
                                  .q_len = s.tokens,
                                  .kv_len = s.tokens,
                                  .head_dim = s.dim,
                                  .v_head_dim = s.dim},
                        .query_tokens = s.batch * s.tokens,
                        .causal = s.causal,
                        .max_threads = num_threads,
                        .widths = widths})),
        heads(static_cast<std::size_t>(s.batch * s.kv_heads)),
        progress(heads.size()),
        sequences(sequences_of(plan)),
        schedule(sequences, s.kv_heads, plan.packed_slots, plan.heads_together, heads.data(),
                 progress.data()) {
    for (std::int64_t ticket = 0; ticket < schedule.size(); ++ticket)
      cycles.push_back(cycles_of(schedule.item(ticket)));
  }

  static std::vector<SequenceWork> sequences_of(const CallPlan& plan) {
    std::vector<SequenceWork> all;
    for (std::int64_t batch = 0; batch < plan.sizes.batch; ++batch)
      all.push_back(
          plan_sequence(plan, batch, plan.sizes.q_len, plan.sizes.kv_len, plan.sizes.kv_len));
    return all;
  }

  double cycles_of(const WorkItem& item) const {
    const std::int64_t group_size = shape.heads / shape.kv_heads;
    const double packing = static_cast<double>(2 * shape.dim) / 4;  // of a key
    if (item.kind == WorkItem::Kind::pack)
      return packing * static_cast<double>(plan.packed.kv_block / plan.pack_pieces);
    const std::int64_t first = item.block * plan.packed.q_block;
    const std::int64_t end = std::min(first + plan.packed.q_block, plan.packed.rows);
    double pairs = 0;
    for (std::int64_t row = first; row < end; ++row)
      pairs += static_cast<double>(shape.causal ? row / group_size + 1 : shape.tokens);
    const bool packs = schedule.head(item.head).path == Path::one_thread;
    return 500 + pairs * static_cast<double>(2 * shape.dim) / 16 +
           (packs ? packing * static_cast<double>(shape.tokens) : 0);
  }

  double total() const {
    double sum = 0;
    for (const double each : cycles) sum += each;
    return sum;
  }

  static constexpr KernelWidths widths{
      .vector_width = 16, .panel_width = 64, .multiplies_bf16 = false};
  Shape shape;
  CallPlan plan;
  std::vector<HeadWork> heads;
  std::vector<HeadProgress> progress;
  std::vector<SequenceWork> sequences;
  Schedule schedule;
  std::vector<double> cycles;
};

double share_of_ideal(const Shape& shape, int num_threads) {
  const Simulation one(shape, 1), all(shape, num_threads);
  return one.total() / num_threads / makespan(all.schedule, all.cycles, all.plan.num_threads);
}

constexpr Shape bert{8, 12, 12, 128, 64, false}, vit{1, 16, 16, 577, 80, false},
    gpt2{1, 12, 12, 1024, 64, true}, whisper{1, 20, 20, 1500, 64, false},
    full4k{1, 4, 4, 4096, 64, false}, llama{1, 32, 8, 2048, 128, true};

}  // namespace

TEST_CASE("Up to 128 threads are busy for most of the time") {
  for (const Shape& shape : {vit, gpt2, whisper, full4k, llama}) {
    for (const int threads : {1, 2, 8, 16, 32, 64, 128}) {
      CAPTURE(shape.heads);
      CAPTURE(shape.tokens);
      CAPTURE(threads);
      CHECK(share_of_ideal(shape, threads) >= (threads == 128 ? 0.8 : 0.85));
    }
  }
  for (const int threads : {8, 16, 32}) CHECK(share_of_ideal(bert, threads) >= 0.85);
}

TEST_CASE("One long head keeps 64 threads busy") {
  for (const bool causal : {false, true})
    CHECK(share_of_ideal({1, 1, 1, 8192, 64, causal}, 64) >= 0.85);
}

TEST_CASE("Packed heads in flight stay within their memory") {
  for (const int threads : {2, 16, 128}) {
    for (const Shape& shape : {bert, vit, llama, Shape{1, 8, 8, 100'000, 128, false}}) {
      const CallPlan plan = Simulation(shape, threads).plan;
      const std::int64_t head = 2 * 4 * plan.packed.kv_blocks * plan.packed.kv_block * shape.dim;
      CHECK(plan.packed_slots * head <= std::max(3 * head, threads * std::int64_t{4} << 20));
    }
  }
}

TEST_CASE("Items are measured and replayed for a call") {
  const Tensor q(DType::f32, {1, 4, 200, 32});
  Tensor out(DType::f32, {1, 4, 200, 32});
  const AttentionTensors tensors{.q = q.view(), .k = q.view(), .v = q.view(), .out = out.view()};
  for (const int threads : {1, 2, 64}) {
    const SimulatedCall call = simulate(tensors, {}, default_isa(), threads, 0);
    CHECK(call.seconds > 0);
    CHECK(call.share_of_ideal > 0);
  }
}
