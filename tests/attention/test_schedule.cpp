// Schedule: every item of work has one ticket, and waits only for items with earlier tickets.
#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "attention/schedule.hpp"

using namespace attn;
using namespace attn::detail;

namespace {

/// A schedule that owns its memory.
struct OwnSchedule {
  std::vector<HeadWork> heads;
  std::vector<HeadProgress> progress;
  Schedule schedule;

  OwnSchedule(std::vector<SequenceWork> entries, std::int64_t num_kv_heads, std::int64_t slots,
              std::int64_t heads_together = 1)
      : heads(entries.size() * static_cast<std::size_t>(num_kv_heads)),
        progress(heads.size()),
        schedule(entries, num_kv_heads, slots, heads_together, heads.data(), progress.data()) {}
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

/// The ticket of each item, by the kind, head and block of the item.
std::map<std::tuple<WorkItem::Kind, std::int64_t, std::int64_t>, std::int64_t> tickets(
    const Schedule& work) {
  std::map<std::tuple<WorkItem::Kind, std::int64_t, std::int64_t>, std::int64_t> all;
  for (std::int64_t ticket = 0; ticket < work.size(); ++ticket) {
    const WorkItem item = work.item(ticket);
    all.emplace(std::tuple(item.kind, item.head, item.block), ticket);
  }
  return all;
}

}  // namespace

TEST_CASE("Every block is packed and computed once") {
  for (const std::int64_t num_kv_heads : {1, 2, 7}) {
    for (const std::int64_t together : {1, 2, 50}) {
      const OwnSchedule own(mixed_batch(), num_kv_heads, 150, together);
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
    struct Group {
      std::int64_t heads, slots;
    };
    for (const auto [together, slots] : {Group{1, 2}, Group{1, 3}, Group{2, 4}, Group{3, 9}}) {
      const OwnSchedule own(mixed_batch(), num_kv_heads, slots, together);
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

TEST_CASE("Without heads or rows there is no work") {
  CHECK(OwnSchedule({entry(0, Path::cooperative, 3, 0), entry(1, Path::unpacked, 0, 0)}, 3, 2)
            .schedule.size() == 0);
  CHECK(OwnSchedule({entry(0, Path::cooperative, 3, 3)}, 0, 2).schedule.size() == 0);
}
