// How a call is cut and ordered, and which keys lie in sight: integers in, integers out.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "attention/plan.hpp"
#include "attention/schedule.hpp"
#include "attention/visibility.hpp"
#include "kernels/select.hpp"
#include "support/masks.hpp"
#include "threads/parallel.hpp"

using namespace attn;
using namespace attn::detail;
using namespace attn::test;

namespace {

Problem problem_of(std::int64_t q_len, std::int64_t kv_len, std::optional<Causal> causal,
                   std::optional<Window> window) {
  Problem problem;
  problem.sizes = {.batch = 1,
                   .num_q_heads = 1,
                   .num_kv_heads = 1,
                   .group_size = 1,
                   .q_len = q_len,
                   .kv_len = kv_len};
  problem.causal = causal.has_value();
  if (causal) problem.position = causal->position.value_or(QueryPosition::bottom_right());
  problem.window = window.value_or(Window{});
  return problem;
}

/// Causal mask and window asked for one key.
bool in_sight(const Problem& problem, std::int64_t p, std::int64_t key) {
  const Window& window = problem.window;
  return (!problem.causal || key <= p) && (!window.left || key >= p - *window.left) &&
         (!window.right || key <= p + *window.right);
}

/// Empty, or the first key that the range has and the mask has not, or the other way round.
std::string wrong_range(const Problem& problem, std::int64_t length, std::int64_t key_count) {
  const KeyVisibility sight(problem, problem.sizes.q_len, length, key_count);
  for (std::int64_t i = 0; i < problem.sizes.q_len; ++i) {
    const KeyRange range = sight.range_of(i);
    const std::int64_t p = i + position_offset(problem, problem.sizes.q_len, length);
    for (std::int64_t key = 0; key < problem.sizes.kv_len; ++key) {
      const bool expected = key < length && key < key_count && in_sight(problem, p, key);
      if ((range.begin <= key && key < range.end) != expected)
        return fmt::format("query {} key {}", i, key);
    }
    if (range.size() > 0 && (range.begin < 0 || range.end > problem.sizes.kv_len))
      return fmt::format("query {} out of bounds", i);
  }
  return "";
}

/// Empty, or two queries whose visible_range leaves out a key that one between them sees.
std::string wrong_hull(const Problem& problem) {
  const KeyVisibility sight(problem, problem.sizes.q_len, problem.sizes.kv_len,
                            problem.sizes.kv_len);
  for (std::int64_t first = 0; first < problem.sizes.q_len; ++first) {
    for (std::int64_t last = first; last < problem.sizes.q_len; ++last) {
      const KeyRange visible_range = sight.visible_range(first, last);
      for (std::int64_t i = first; i <= last; ++i) {
        const KeyRange range = sight.range_of(i);
        if (!range.empty() && (range.begin < visible_range.begin || range.end > visible_range.end))
          return fmt::format("{} to {}", first, last);
      }
    }
  }
  return "";
}

template <class F>
void for_each_sizes(F&& f) {
  for (const std::int64_t q_len : {0, 1, 5, 24, 97, 513, 5000}) {
    for (const std::int64_t kv_len : {0, 1, 63, 64, 65, 511, 5000}) {
      for (const std::int64_t group_size : {1, 3, 8}) {
        for (const std::int64_t head_dim : {1, 64, 80, 256, 4096}) {
          f(Sizes{.batch = 2,
                  .num_q_heads = 2 * group_size,
                  .num_kv_heads = 2,
                  .group_size = group_size,
                  .q_len = q_len,
                  .kv_len = kv_len,
                  .head_dim = head_dim,
                  .v_head_dim = head_dim});
        }
      }
    }
  }
}

std::string name_of_sizes(const Sizes& sizes) {
  return fmt::format("group_size {} q_len {} kv_len {} head_dim {}", sizes.group_size, sizes.q_len,
                     sizes.kv_len, sizes.head_dim);
}

/// A schedule with memory of its own.
struct OwnSchedule {
  std::vector<HeadWork> heads;
  std::vector<HeadProgress> progress;
  Schedule schedule;

  OwnSchedule(std::vector<SequenceWork> entries, std::int64_t num_kv_heads, std::int64_t slots)
      : heads(entries.size() * static_cast<std::size_t>(num_kv_heads)),
        progress(heads.size()),
        schedule(entries, num_kv_heads, slots, heads.data(), progress.data()) {}
};

SequenceWork entry(std::int64_t batch, Path path, std::int64_t pack_items,
                   std::int64_t compute_items, double cost = 1) {
  const std::int64_t partial_rows =
      path == Path::unpacked && compute_items > 1 ? compute_items * 3 : 0;
  return {.batch = batch,
          .path = path,
          .pack_items = pack_items,
          .compute_items = compute_items,
          .partial_rows = partial_rows,
          .cost = cost};
}

/// Prompts of several lengths, decode steps with and without splits, and an entry without queries.
std::vector<SequenceWork> mixed_batch() {
  return {entry(0, Path::unpacked, 0, 1, 10),   entry(1, Path::cooperative, 3, 4, 50),
          entry(2, Path::cooperative, 1, 2, 5), entry(3, Path::unpacked, 0, 5, 90),
          entry(4, Path::cooperative, 0, 0),    entry(5, Path::cooperative, 2, 7, 70),
          entry(6, Path::cooperative, 0, 1, 1)};
}

/// Tickets by kind, head and block.
std::map<std::tuple<WorkItem::Kind, std::int64_t, std::int64_t>, std::int64_t> tickets(
    const Schedule& work) {
  std::map<std::tuple<WorkItem::Kind, std::int64_t, std::int64_t>, std::int64_t> all;
  for (std::int64_t ticket = 0; ticket < work.size(); ++ticket) {
    const WorkItem item = work.item(ticket);
    all.emplace(std::tuple(item.kind, item.head, item.block), ticket);
  }
  return all;
}

struct Operands {
  std::int64_t vnni_factor;
  bool fixed_q_block;
};

}  // namespace

TEST_CASE("A query's range holds the keys that causal mask, window and lengths leave it") {
  for (const auto& [q_len, kv_len] :
       {std::pair{7, 19}, std::pair{19, 7}, std::pair{9, 9}, std::pair{1, 0}, std::pair{3, 0}}) {
    for (const auto& causal : causal_masks(q_len, kv_len)) {
      for (const auto& window : windows()) {
        const Problem problem = problem_of(q_len, kv_len, causal, window);
        for (const std::int64_t length : {0, kv_len / 2, kv_len}) {
          for (const std::int64_t key_count : {0, kv_len / 3, kv_len})
            CHECK(wrong_range(problem, length, key_count) == "");
        }
        CHECK(wrong_hull(problem) == "");
      }
    }
  }
}

TEST_CASE("Positions far outside leave empty or full ranges") {
  constexpr std::int64_t far = std::int64_t{1} << 48;
  const std::int64_t length = 10;
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(-far), Window{far, far}), 5, length, 10)
            .range_of(0)
            .empty());
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(far), {}), 5, length, 10).range_of(0) ==
        KeyRange{0, 10});
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(far), Window{3, 3}), 5, length, 10)
            .range_of(0)
            .empty());
}

TEST_CASE("Blocks cover all rows and keys") {
  for (const Isa isa : available_isas()) {
    const KernelWidths widths = widths_of(kernels::kernels_for(isa));
    for_each_sizes([&](const Sizes& sizes) {
      for (const int num_threads : {1, 2, 64}) {
        for (const Operands operands :
             {Operands{1, false}, Operands{1, true}, Operands{2, false}}) {
          const std::int64_t vnni_factor = operands.vnni_factor;
          INFO(name_of_sizes(sizes), ", threads ", num_threads, ", vnni factor ", vnni_factor);
          const Blocking blocking =
              choose_blocking(sizes, widths, vnni_factor, num_threads, operands.fixed_q_block);
          CHECK(blocking.rows == sizes.q_len * sizes.group_size);
          CHECK(blocking.q_block >= 1);
          CHECK(blocking.q_blocks == (blocking.rows + blocking.q_block - 1) / blocking.q_block);
          CHECK(blocking.kv_block >= 1);
          CHECK(blocking.kv_block % widths.panel_width == 0);
          CHECK(blocking.kv_blocks == (sizes.kv_len + blocking.kv_block - 1) / blocking.kv_block);
          CHECK(blocking.key_depth * vnni_factor >= sizes.head_dim);
          CHECK(blocking.value_depth() * vnni_factor == blocking.kv_block);
          CHECK(blocking.value_width >= sizes.v_head_dim);
          CHECK(blocking.value_width % widths.vector_width == 0);
          CHECK(blocking.value_panels * widths.panel_width >= sizes.v_head_dim);
          CHECK(blocking.value_panels * blocking.value_panel_width >= blocking.value_width);
          CHECK(blocking.value_panel_width % widths.vector_width == 0);
          CHECK(blocking.value_panel_width <= widths.panel_width);
        }
      }
    });
  }
}

TEST_CASE("What decides the order of sums depends on one head's sizes alone") {
  const KernelWidths widths = widths_of(kernels::kernels_for(default_isa()));
  for_each_sizes([&](const Sizes& sizes) {
    INFO(name_of_sizes(sizes));
    const Blocking alone = choose_blocking(sizes, widths, 1, 1, true);
    Sizes crowd = sizes;
    crowd.batch = 50;
    crowd.num_kv_heads = 16;
    crowd.num_q_heads = 16 * sizes.group_size;
    const Blocking among_others = choose_blocking(crowd, widths, 1, 32, true);
    CHECK(among_others.kv_block == alone.kv_block);
    CHECK(among_others.q_block == alone.q_block);
    CHECK(choose_blocking(crowd, widths, 1, 32, false).kv_block == alone.kv_block);
  });
}

namespace {

PlanInput plan_input(const Sizes& sizes, int max_threads) {
  return {.sizes = sizes,
          .query_tokens = sizes.batch * sizes.q_len,
          .max_threads = max_threads,
          .widths = {.vector_width = 8, .panel_width = 16, .multiplies_bf16 = true}};
}

constexpr Sizes prompt{.batch = 2,
                       .num_q_heads = 8,
                       .num_kv_heads = 2,
                       .group_size = 4,
                       .q_len = 1000,
                       .kv_len = 3000,
                       .head_dim = 64,
                       .v_head_dim = 80};

Sizes with_lengths(Sizes sizes, std::int64_t q_len, std::int64_t kv_len) {
  sizes.q_len = q_len;
  sizes.kv_len = kv_len;
  return sizes;
}

}  // namespace

TEST_CASE("Few rows are read in place, many are packed, by one thread if one block has them all") {
  const auto path = [](PlanInput input) { return make_plan(input).path_of(input.sizes.q_len); };
  CHECK(path(plan_input(with_lengths(prompt, 1, 3000), 8)) == Path::unpacked);
  CHECK(path(plan_input(with_lengths(prompt, 8, 3000), 8)) == Path::unpacked);  // 32 rows
  CHECK(path(plan_input(with_lengths(prompt, 9, 3000), 1)) == Path::one_thread);
  CHECK(path(plan_input(with_lengths(prompt, 9, 3000), 8)) == Path::cooperative);
  CHECK(path(plan_input(prompt, 8)) == Path::cooperative);
  PlanInput widened = plan_input(with_lengths(prompt, 12, 3000), 8);
  widened.kv_type = DType::i8;
  CHECK(path(widened) == Path::unpacked);  // 48 rows
  PlanInput full_rows = plan_input(with_lengths(prompt, 1, 3000), 8);
  full_rows.needs_full_rows = true;
  CHECK(path(full_rows) == Path::one_thread);
  PlanInput ragged = plan_input(with_lengths(prompt, 9, 3000), 8);
  ragged.ragged = true;
  CHECK(path(ragged) == Path::cooperative);
  PlanInput onednn = plan_input(with_lengths(prompt, 1, 3000), 8);
  onednn.onednn_scores = true;
  CHECK(make_plan(onednn).score_tiles);
  CHECK(path(onednn) == Path::one_thread);
}

TEST_CASE("bf16 is multiplied in pairs where everything allows it") {
  PlanInput input = plan_input(prompt, 4);
  input.q_type = input.kv_type = DType::bf16;
  CHECK(make_plan(input).packed.vnni_factor == 2);
  for (const auto& change : std::initializer_list<void (*)(PlanInput&)>{
           [](PlanInput& i) { i.q_type = DType::f32; },
           [](PlanInput& i) { i.kv_type = DType::f16; },
           [](PlanInput& i) { i.widths.multiplies_bf16 = false; },
           [](PlanInput& i) { i.needs_full_rows = true; },
           [](PlanInput& i) { i.onednn_scores = true; }}) {
    PlanInput changed = input;
    change(changed);
    CHECK(make_plan(changed).packed.vnni_factor == 1);
  }
}

TEST_CASE("Plans have scratch for what their sequences need, and no more threads than items") {
  for (const std::int64_t q_len : {0, 1, 8, 9, 100, 1000}) {
    for (const std::int64_t kv_len : {0, 1, 600, 5000, 100'000}) {
      for (const int max_threads : {1, 3, 64}) {
        CAPTURE(q_len);
        CAPTURE(kv_len);
        CAPTURE(max_threads);
        const Sizes sizes = with_lengths(prompt, q_len, kv_len);
        const CallPlan plan = make_plan(plan_input(sizes, max_threads));
        CHECK(plan.num_threads >= 1);
        CHECK(plan.num_threads <= max_threads);
        const SequenceWork work = plan_sequence(plan, 0, q_len, kv_len, kv_len);
        CHECK((work.compute_items == 0) == (q_len == 0));
        CHECK(work.partial_rows * sizes.batch * sizes.num_kv_heads <= plan.partial_rows);
        if (work.path != Path::unpacked) CHECK(plan.packed_slots >= 1);
        if (work.path == Path::one_thread) CHECK(plan.packed_slots >= plan.num_threads);
      }
    }
  }
}

TEST_CASE("Every block is packed and computed once") {
  for (const std::int64_t num_kv_heads : {1, 2, 7}) {
    const OwnSchedule own(mixed_batch(), num_kv_heads, 3);
    const Schedule& work = own.schedule;
    const auto all = tickets(work);
    CHECK(static_cast<std::int64_t>(all.size()) == work.size());
    std::int64_t expected = 0;
    for (const SequenceWork& entry : mixed_batch())
      expected += num_kv_heads * (entry.pack_items + entry.compute_items);
    CHECK(work.size() == expected);
    for (const auto& [item, ticket] : all) {
      const auto [kind, head, block] = item;
      REQUIRE((0 <= head && head < work.num_heads()));
      const HeadWork& of = work.head(head);
      CHECK((0 <= block &&
             block < (kind == WorkItem::Kind::pack ? of.pack_items : of.compute_items)));
    }
  }
}

TEST_CASE("Every KV head of every entry with queries is there once, the costliest first") {
  const OwnSchedule own(mixed_batch(), 2, 3);
  std::vector<std::int64_t> order;
  for (std::int64_t head = 0; head < own.schedule.num_heads(); ++head) {
    CHECK(own.schedule.head(head).kv_head == head % 2);
    if (head % 2 == 0) order.push_back(own.schedule.head(head).batch);
  }
  CHECK(order == std::vector<std::int64_t>{5, 1, 2, 6, 3, 0});
}

TEST_CASE("An item waits only for items with earlier tickets") {
  for (const std::int64_t num_kv_heads : {1, 2, 7}) {
    for (const std::int64_t slots : {2, 3}) {  // packing runs one ahead, so one slot would not do
      const OwnSchedule own(mixed_batch(), num_kv_heads, slots);
      const Schedule& work = own.schedule;
      const auto all = tickets(work);
      for (std::int64_t head = 0; head < work.num_heads(); ++head) {
        const HeadWork& of = work.head(head);
        if (of.path != Path::cooperative) continue;
        CHECK((0 <= of.slot && of.slot < slots));
        if (of.slot_before >= 0) CHECK(work.head(of.slot_before).slot == of.slot);
        for (std::int64_t block = 0; block < of.pack_items; ++block) {
          const std::int64_t packed = all.at({WorkItem::Kind::pack, head, block});
          for (std::int64_t rows = 0; rows < of.compute_items; ++rows)
            CHECK(packed < all.at({WorkItem::Kind::compute, head, rows}));
          if (of.slot_before < 0) continue;
          for (std::int64_t rows = 0; rows < work.head(of.slot_before).compute_items; ++rows) {
            CHECK(all.at({WorkItem::Kind::compute, of.slot_before, rows}) < packed);
          }
        }
      }
    }
  }
}

TEST_CASE("The last rows of a head, which a causal mask makes the longest, come first") {
  const OwnSchedule own({entry(0, Path::cooperative, 2, 5)}, 3, 3);
  const auto all = tickets(own.schedule);
  for (std::int64_t head = 0; head < 3; ++head) {
    for (std::int64_t q = 1; q < 5; ++q) {
      CHECK(all.at({WorkItem::Kind::compute, head, q}) <
            all.at({WorkItem::Kind::compute, head, q - 1}));
    }
  }
}

TEST_CASE("The heads of an entry take the same split one after another") {
  const OwnSchedule own({entry(0, Path::cooperative, 2, 3), entry(1, Path::unpacked, 0, 4)}, 3, 3);
  const auto all = tickets(own.schedule);
  const std::int64_t first = all.at({WorkItem::Kind::compute, 3, 0});
  for (std::int64_t split = 0; split < 4; ++split) {
    for (std::int64_t head = 0; head < 3; ++head)
      CHECK(all.at({WorkItem::Kind::compute, 3 + head, split}) == first + split * 3 + head);
  }
}

TEST_CASE("Parts of split heads do not overlap") {
  const OwnSchedule own({entry(0, Path::unpacked, 0, 4), entry(1, Path::unpacked, 0, 1),
                         entry(2, Path::unpacked, 0, 2)},
                        2, 0);
  std::int64_t next = 0;
  for (std::int64_t head = 0; head < own.schedule.num_heads(); ++head) {
    CHECK(own.schedule.head(head).first_partial == next);
    if (own.schedule.head(head).compute_items > 1)
      next += own.schedule.head(head).compute_items * 3;
  }
}

TEST_CASE("Splits cover all keys, are no more than announced, and depend on one head alone") {
  for_each_sizes([&](Sizes sizes) {
    for (const std::int64_t keys : {0, 1, 127, 128, 513, 8192, 8193, 100'000}) {
      INFO(name_of_sizes(sizes) << " visible keys " << keys);
      const Splits splits = choose_splits(keys, sizes);
      CHECK(splits.count >= 1);
      CHECK(splits.count * splits.keys >= keys);
      CHECK((splits.count - 1) * splits.keys < std::max<std::int64_t>(keys, 1));
      CHECK(splits.count <= most_splits(keys, sizes));
      CHECK(most_splits(keys, sizes) <= most_splits(keys + 1, sizes));
      Sizes crowd = sizes;
      crowd.batch = 50;
      CHECK(choose_splits(keys, crowd).count == splits.count);
    }
  });
}

TEST_CASE("Without heads or rows there is no work") {
  CHECK(OwnSchedule({entry(0, Path::cooperative, 3, 0), entry(1, Path::unpacked, 0, 0)}, 3, 2)
            .schedule.size() == 0);
  CHECK(OwnSchedule({entry(0, Path::cooperative, 3, 3)}, 0, 2).schedule.size() == 0);
}

TEST_CASE("Threads take each index once: their own shares in order, then the rest of others'") {
  for (const int threads : {1, 2, 3, 64, 65, 200}) {
    for (const std::int64_t count : {0, 1, 2, 7, 63, 64, 65, 1000}) {
      CAPTURE(threads);
      CAPTURE(count);
      const auto taken = [](WorkStealingRange& shares, int thread) {
        std::vector<std::int64_t> indices;
        shares.for_each(thread, [&](std::int64_t index) { indices.push_back(index); });
        return indices;
      };
      // The first to come takes all of it, beginning with its own.
      for (const int first : {0, threads / 2, threads - 1}) {
        WorkStealingRange shares(count, threads);
        std::vector<std::int64_t> all = taken(shares, first);
        const std::int64_t kinds = std::min(threads, 64);
        if (count % kinds == 0 && count > 0) CHECK(all.front() == count / kinds * (first % kinds));
        std::sort(all.begin(), all.end());
        REQUIRE(std::ssize(all) == count);
        for (std::int64_t n = 0; n < count; ++n) REQUIRE(all[static_cast<std::size_t>(n)] == n);
        CHECK(taken(shares, 0).empty());
      }
    }
  }
  std::vector<std::atomic<int>> times(1000);
  parallel_for(4, 1000, [&](std::int64_t index) { ++times[static_cast<std::size_t>(index)]; });
  CHECK(std::all_of(times.begin(), times.end(), [](const auto& n) { return n == 1; }));
  CHECK_THROWS_AS(parallel_for(4, 100,
                               [](std::int64_t index) {
                                 if (index == 50) throw 1;
                               }),
                  int);
}
