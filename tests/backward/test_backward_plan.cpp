// The plan and the schedule of the backward pass: every item once, no item before those that it
// waits for, and enough of them to keep many threads busy.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <queue>
#include <tuple>
#include <vector>

#include "attention/visibility.hpp"
#include "backward/plan.hpp"

using namespace attn;
using namespace attn::detail;

namespace {

constexpr KernelWidths avx512{.vector_width = 16, .panel_width = 64, .multiplies_bf16 = true};

BackwardPlan plan_of(std::int64_t heads, std::int64_t q_len, std::int64_t kv_len, int threads,
                     std::int64_t head_dim = 64) {
  const Sizes sizes{.batch = 1,
                    .num_q_heads = heads,
                    .num_kv_heads = heads,
                    .group_size = 1,
                    .q_len = q_len,
                    .kv_len = kv_len,
                    .head_dim = head_dim,
                    .v_head_dim = head_dim};
  return make_backward_plan({.sizes = sizes,
                             .query_tokens = q_len,
                             .extras = {},
                             .scanned_rows = 0,
                             .max_threads = threads,
                             .widths = avx512});
}

/// A schedule that owns its memory.
struct OwnSchedule {
  std::vector<BackwardHead> heads;
  BackwardSchedule schedule;

  explicit OwnSchedule(std::vector<BackwardHead> of)
      : heads(of.begin(), of.end()),
        schedule((heads.emplace_back(), heads.data()), static_cast<std::int64_t>(of.size())) {}
};

BackwardHead head(std::int64_t rows, std::int64_t kv_len, const Blocking& blocking) {
  return {.q_blocks = (rows + blocking.q_block - 1) / blocking.q_block,
          .columns = columns_of(kv_len, kv_len, blocking.kv_block)};
}

/// Times of items in microseconds, as one core of 100 GFLOP/s takes for head dims of 64: 10 flops
/// for a pair and a dim, 30 GB/s for rows that are packed or added up.
struct Costs {
  double pair = 6.4e-3;
  double prepared_row = 0.06;
  double finished_row = 0.08;
};

/// The share of the threads' time in which they work, if they take the items of one head of as many
/// queries as keys in the order of tickets, and wait as the run does.
double busy_share(std::int64_t length, int threads, bool causal) {
  const BackwardPlan plan = plan_of(1, length, length, threads);
  const Blocking& blocking = plan.call.packed;
  const OwnSchedule own({head(length, length, blocking)});
  const BackwardSchedule& schedule = own.schedule;
  Problem problem;
  problem.sizes = plan.call.sizes;
  problem.causal = causal;
  const KeyVisibility visibility(problem, length, length, length);
  const Costs costs;

  std::priority_queue<double, std::vector<double>, std::greater<>> free;
  for (int thread = 0; thread < threads; ++thread) free.push(0);
  std::map<std::int64_t, std::vector<double>> columns;  // when each is done with each block of rows
  double prepared = 0, computed = 0, busy = 0, end = 0;
  for (std::int64_t ticket = 0; ticket < schedule.size(); ++ticket) {
    const BackwardItem item = schedule.item(ticket);
    double time = free.top();
    free.pop();
    const auto work = [&](double cost) {
      time += cost;
      busy += cost;
    };
    const std::int64_t rows = blocking.q_block;
    if (item.step == BackwardStep::prepare) {
      work(static_cast<double>(rows) * costs.prepared_row);
      prepared = std::max(prepared, time);
    } else if (item.step == BackwardStep::column) {
      time = std::max(time, prepared);
      const KeyRange keys{item.index * blocking.kv_block, (item.index + 1) * blocking.kv_block};
      std::vector<double>& done = columns[item.index];
      for (std::int64_t block = 0; block * rows < length; ++block) {
        std::int64_t pairs = 0;
        for (std::int64_t q = block * rows; q < std::min(length, (block + 1) * rows); ++q)
          pairs += intersection(visibility.range_of(q), keys).size();
        const bool first = schedule.head(0).columns.first_of_chunk(item.index);
        if (!first) time = std::max(time, columns[item.index - 1][static_cast<std::size_t>(block)]);
        work(static_cast<double>(pairs) * costs.pair);
        done.push_back(time);
      }
      computed = std::max(computed, time);
    } else {
      time = std::max(time, computed);
      work(static_cast<double>(rows) * costs.finished_row);
    }
    end = std::max(end, time);
    free.push(time);
  }
  return busy / (end * threads);
}

}  // namespace

TEST_CASE("Columns are taken once each, those of a chunk in their order") {
  for (const std::int64_t kv_len : {0, 1, 127, 128, 129, 1024, 1100, 5000, 100000}) {
    for (const std::int64_t kv_block : {64, 128}) {
      CAPTURE(kv_len);
      CAPTURE(kv_block);
      const Columns columns = columns_of(kv_len, kv_len, kv_block);
      CHECK(columns.count == (kv_len + kv_block - 1) / kv_block);
      std::vector<std::int64_t> turn(static_cast<std::size_t>(columns.count), -1);
      for (std::int64_t n = 0; n < columns.count; ++n) {
        const std::int64_t column = columns.in_turn(n);
        REQUIRE((column >= 0 && column < columns.count));
        CHECK(turn[static_cast<std::size_t>(column)] == -1);
        turn[static_cast<std::size_t>(column)] = n;
        if (!columns.first_of_chunk(column)) CHECK(turn[static_cast<std::size_t>(column - 1)] >= 0);
        CHECK(columns.chunk_of(column) < most_chunks);
      }
    }
  }
}

TEST_CASE("Chunks begin at the same keys whatever the size of blocks") {
  for (std::int64_t kv_len = 1; kv_len < 3000; kv_len += 7) {
    const Columns wide = columns_of(kv_len, kv_len, 128), narrow = columns_of(kv_len, kv_len, 64);
    CHECK(wide.per_chunk * 128 == narrow.per_chunk * 64);
  }
}

TEST_CASE("Threads and heads change no chunk, and copies of dQ have room for any sequence") {
  for (const std::int64_t kv_len : {1, 200, 700, 3000}) {
    for (const int threads : {1, 2, 64}) {
      for (const std::int64_t heads : {1, 16}) {
        const BackwardPlan plan = plan_of(heads, 100, kv_len, threads);
        const std::int64_t kv_block = plan.call.packed.kv_block;
        CHECK(plan.columns.per_chunk * kv_block == columns_of(kv_len, kv_len, 128).per_chunk * 128);
        for (std::int64_t shorter = 1; shorter <= kv_len; ++shorter) {
          const Columns columns = columns_of(shorter, shorter, kv_block);
          CHECK(columns.chunk_of(columns.count - 1) < plan.copies);
        }
      }
    }
  }
}

TEST_CASE("Every item once, and none before those that it waits for") {
  const Blocking blocking = plan_of(1, 500, 900, 2).call.packed;
  const std::vector<BackwardHead> heads = {head(500, 900, blocking), head(0, 40, blocking),
                                           head(3, 0, blocking), head(70, 300, blocking)};
  const OwnSchedule own(heads);
  std::map<std::tuple<BackwardStep, std::int64_t, std::int64_t>, std::int64_t> tickets;
  for (std::int64_t ticket = 0; ticket < own.schedule.size(); ++ticket) {
    const BackwardItem item = own.schedule.item(ticket);
    CHECK(tickets.emplace(std::tuple(item.step, item.head, item.index), ticket).second);
    for (const auto& [other, earlier] : tickets) {
      const auto& [step, of_head, index] = other;
      if (of_head == item.head) CHECK(static_cast<int>(step) <= static_cast<int>(item.step));
    }
  }
  std::int64_t expected = 0;
  for (const BackwardHead& of : heads) expected += 2 * of.q_blocks + of.columns.count;
  CHECK(own.schedule.size() == expected);
  CHECK(static_cast<std::int64_t>(tickets.size()) == expected);
}

TEST_CASE("64 threads are busy for 80 % of the time with one head of 8192") {
  CHECK(busy_share(8192, 64, true) >= 0.8);
  CHECK(busy_share(8192, 64, false) >= 0.8);
  MESSAGE("causal: " << busy_share(8192, 64, true)
                     << ", not causal: " << busy_share(8192, 64, false));
  CHECK(busy_share(2048, 2, true) >= 0.95);
}
