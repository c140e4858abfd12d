// Block masks: each maker against all pairs, one by one.
#include <attn/block_mask.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "support/block_masks.hpp"
#include "support/masks.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Visible = std::function<bool(std::int64_t batch, std::int64_t head, std::int64_t query,
                                   std::int64_t key)>;

struct Pairs {
  std::int64_t visible = 0, all = 0;
};

Pairs pairs_of_block(const BlockMaskSizes& sizes, const Dims& at, const Visible& visible) {
  Pairs pairs;
  const auto [q_block, kv_block] = sizes.block;
  for (std::int64_t i = at[2] * q_block; i < std::min((at[2] + 1) * q_block, sizes.q_len); ++i) {
    for (std::int64_t j = at[3] * kv_block; j < std::min((at[3] + 1) * kv_block, sizes.kv_len);
         ++j) {
      ++pairs.all;
      if (visible(at[0], at[1], i, j)) ++pairs.visible;
    }
  }
  return pairs;
}

/// Checks all blocks, their counts and the density.
void check_blocks(const BlockMask& mask, const Visible& visible) {
  const BlockMaskSizes& sizes = mask.sizes();
  REQUIRE(mask.q_blocks() == blocks_of(sizes.q_len, sizes.block.q));
  REQUIRE(mask.kv_blocks() == blocks_of(sizes.kv_len, sizes.block.kv));
  BlockMask::Counts counts;
  Pairs sum;
  int wrong = 0;
  for_each_index({sizes.batch, sizes.num_q_heads, mask.q_blocks(), mask.kv_blocks()},
                 [&](const Dims& at) {
                   const Pairs pairs = pairs_of_block(sizes, at, visible);
                   const BlockKind kind = pairs.visible == 0           ? BlockKind::empty
                                          : pairs.visible == pairs.all ? BlockKind::full
                                                                       : BlockKind::partial;
                   ++(kind == BlockKind::empty  ? counts.empty
                      : kind == BlockKind::full ? counts.full
                                                : counts.partial);
                   sum.visible += pairs.visible;
                   sum.all += pairs.all;
                   if (mask.kind(at[0], at[1], at[2], at[3]) != kind) ++wrong;
                 });
  CHECK(wrong == 0);
  CHECK(mask.counts().empty == counts.empty);
  CHECK(mask.counts().partial == counts.partial);
  CHECK(mask.counts().full == counts.full);
  const double density =
      sum.all == 0 ? 0 : static_cast<double>(sum.visible) / static_cast<double>(sum.all);
  CHECK(mask.density().value() == doctest::Approx(density));
}

/// Checks visible_keys() of a mask against all pairs, for all keys and for parts of them.
void check_keys(const BlockMask& mask, Random& random, const Visible& visible) {
  const BlockMaskSizes& sizes = mask.sizes();
  const auto got = std::make_unique<bool[]>(static_cast<std::size_t>(sizes.kv_len));
  int wrong = 0;
  for_each_index({sizes.batch, sizes.num_q_heads, sizes.q_len}, [&](const Dims& at) {
    KeyRun run{};
    run.batch = at[0];
    run.q_head = at[1];
    run.q_index = at[2];
    run.key_begin = random.chance(0.5) ? 0 : random.integer(0, sizes.kv_len);
    run.count = random.chance(0.5) ? sizes.kv_len - run.key_begin
                                   : random.integer(0, sizes.kv_len - run.key_begin);
    mask.visible_keys(run, got.get());
    for (std::int64_t n = 0; n < run.count; ++n)
      if (got[n] != visible(at[0], at[1], at[2], run.key_begin + n)) ++wrong;
  });
  CHECK(wrong == 0);
}

void check_exact(const BlockMask& mask, Random& random, const Visible& visible) {
  CHECK(mask.exact());
  CHECK_FALSE(mask.stands_for_mask_mod());
  CHECK_FALSE(mask.stands_for_mask());
  check_blocks(mask, visible);
  check_keys(mask, random, visible);
}

/// A summary hides the keys of empty blocks.
void check_summary(const BlockMask& mask, Random& random) {
  CHECK_FALSE(mask.exact());
  const BlockSize block = mask.sizes().block;
  check_keys(mask, random, [&](auto batch, auto head, auto i, auto j) {
    return mask.kind(batch, head, i / block.q, j / block.kv) != BlockKind::empty;
  });
}

BlockMaskSizes random_sizes(Random& random) {
  const auto length = [&] { return random.pick<std::int64_t>({0, 1, 7, 64, 65, 100, 130}); };
  return {.q_len = length(), .kv_len = length(), .block = random_block_size(random)};
}

/// A pattern with empty, full and partial blocks.
bool pattern(std::int64_t batch, std::int64_t head, std::int64_t i, std::int64_t j) {
  return (i / 13 + j / 17 + batch + head) % 3 == 0 || (i / 40 == j / 40 && (i * 7 + j) % 5 == 0);
}

}  // namespace

TEST_CASE("documents, in order or in any, of each type") {
  for (const std::uint64_t seed : seeds(1, 120)) {
    Random random(seed);
    BlockMaskSizes sizes = random_sizes(random);
    INFO(repeat_command(seed));
    const std::int64_t batch = random.integer(1, 3);
    const DType dtype = random.pick({DType::i32, DType::i64});
    const auto tensor_of = [&](std::int64_t len) {
      StridedTensor tensor(dtype, random.chance(0.5) ? Dims{len} : Dims{batch, len},
                           random.pick({Layout::bhsd, Layout::padded, Layout::reversed}));
      std::vector<double> values;
      while (values.size() < static_cast<std::size_t>(tensor.shape().product())) {
        for (const std::int64_t document : random_documents(random, len))
          values.push_back(static_cast<double>(document));
      }
      tensor.assign(values);
      return tensor;
    };
    const StridedTensor queries = tensor_of(sizes.q_len), keys = tensor_of(sizes.kv_len);
    const std::vector<double> of_queries = queries.values(), of_keys = keys.values();
    const auto document = [](const StridedTensor& tensor, const std::vector<double>& values,
                             std::int64_t entry, std::int64_t n) {
      const std::int64_t len = tensor.shape()[tensor.shape().rank() - 1];
      return values[static_cast<std::size_t>(tensor.shape().rank() == 1 ? n : entry * len + n)];
    };
    const BlockMask mask = BlockMask::from_documents(queries.view(), keys.view(), sizes.block);
    const bool batched = queries.shape().rank() == 2 || keys.shape().rank() == 2;
    CHECK(mask.sizes().batch == (batched ? batch : 1));
    check_exact(mask, random, [&](auto entry, auto, auto i, auto j) {
      return document(queries, of_queries, entry, i) == document(keys, of_keys, entry, j);
    });
  }
}

TEST_CASE("documents with any numbers, the least and the greatest too") {
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                         greatest = std::numeric_limits<std::int64_t>::max();
  for (const std::uint64_t seed : seeds(1, 50)) {
    Random random(seed);
    std::vector<std::int64_t> queries(40), keys(70);
    for (std::vector<std::int64_t>* documents : {&queries, &keys}) {
      for (std::int64_t& document : *documents) {
        document =
            random.pick<std::int64_t>({least, least + 1, -5000, -1, 0, 1, 2047, 2048, 1 << 22,
                                       std::int64_t{1} << 33, greatest - 1, greatest});
      }
    }
    const BlockMask mask =
        BlockMask::from_documents({queries.data(), {40}}, {keys.data(), {70}},
                                  {random.integer(1, 20), random.integer(1, 20)});
    check_exact(mask, random, [&](auto, auto, auto i, auto j) {
      return queries[static_cast<std::size_t>(i)] == keys[static_cast<std::size_t>(j)];
    });
  }
}

TEST_CASE("ranges that overlap, touch, or are empty") {
  for (const std::uint64_t seed : seeds(1, 200)) {
    Random random(seed);
    const BlockMaskSizes sizes = random_sizes(random);
    INFO(repeat_command(seed));
    const std::vector<VisibleRange> ranges = random_ranges(random, sizes.q_len, sizes.kv_len);
    check_exact(BlockMask::from_ranges(ranges, sizes), random, [&](auto, auto, auto i, auto j) {
      return std::any_of(ranges.begin(), ranges.end(), [&](const VisibleRange& range) {
        return range.q_begin <= i && i < range.q_end && range.key_begin <= j && j < range.key_end;
      });
    });
  }
}

TEST_CASE("mask_mod, with the numbers of a call") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    Random random(seed);
    BlockMaskSizes sizes = random_sizes(random);
    sizes.batch = random.integer(1, 2);
    sizes.num_q_heads = random.pick<std::int64_t>({1, 4});
    INFO(repeat_command(seed));
    const std::optional<std::int64_t> offset =
        random.chance(0.5) ? std::optional(random.integer(-5, 5)) : std::nullopt;
    const std::int64_t position = offset.value_or(sizes.kv_len - sizes.q_len);
    const MaskMod mask_mod = [&](const KeyRun& run, bool* visible) {
      const bool right = run.kv_head == run.q_head / 2 && run.q_position == run.q_index + position;
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = right && pattern(run.batch, run.q_head, run.q_index, run.key_begin + n);
    };
    const BlockMask mask =
        BlockMask::from_mask_mod(mask_mod, sizes, {.group_size = 2, .q_position = {offset}},
                                 {.num_threads = static_cast<int>(random.integer(1, 4))});
    CHECK(mask.stands_for_mask_mod());
    CHECK_FALSE(mask.stands_for_mask());
    check_blocks(mask, pattern);
    check_summary(mask, random);
  }
}

TEST_CASE("more keys than mask_mod is asked for at once") {
  for (const std::int64_t width : {64, 3000, 20000}) {
    const BlockMaskSizes sizes{.q_len = 3, .kv_len = 20000, .block = {2, width}};
    const BlockMask mask = BlockMask::from_mask_mod(
        [](const KeyRun& run, bool* visible) {
          REQUIRE(run.count <= 8192);
          for (std::int64_t n = 0; n < run.count; ++n)
            visible[n] = run.key_begin + n >= 8000 && run.key_begin + n < 17000;
        },
        sizes, {}, {.num_threads = 1});
    check_blocks(mask, [](auto, auto, auto, auto j) { return j >= 8000 && j < 17000; });
  }
}

TEST_CASE("what mask_mod throws reaches the caller") {
  const MaskMod fails = [](const KeyRun&, bool*) { throw std::runtime_error("no"); };
  CHECK_THROWS_WITH(
      BlockMask::from_mask_mod(fails, {.q_len = 300, .kv_len = 10}, {}, {.num_threads = 3}), "no");
}

TEST_CASE("dense masks of every shape, type and layout") {
  const Case c{.batch = 2, .num_q_heads = 3, .q_len = 70, .kv_len = 90};
  Random random(1);
  for (const DType dtype : {DType::boolean, DType::f32, DType::bf16, DType::f16}) {
    for (const Dims& shape : mask_shapes(c)) {
      const Layout layout = random.pick({Layout::bhsd, Layout::padded, Layout::reversed});
      CAPTURE(shape.to_string());
      const int rank = shape.rank();
      Dims all{1, 1, 1, 1};
      for (int dim = 0; dim < rank; ++dim) all[4 - rank + dim] = shape[dim];
      const auto element = [&](const Dims& at) {
        return pattern(all[0] == 1 ? 0 : at[0], all[1] == 1 ? 0 : at[1], all[2] == 1 ? 0 : at[2],
                       all[3] == 1 ? 0 : at[3]);
      };
      const double infinity = std::numeric_limits<double>::infinity();
      const bool boolean = dtype == DType::boolean;
      std::vector<double> values;
      for_each_index(all, [&](const Dims& at) {
        values.push_back(boolean ? element(at) : element(at) ? random.normal() : -infinity);
      });
      StridedTensor tensor(dtype, shape, layout);
      tensor.assign(values);
      const BlockMask mask = BlockMask::from_mask(tensor.view(),
                                                  {.q_len = c.q_len,
                                                   .kv_len = c.kv_len,
                                                   .batch = c.batch,
                                                   .num_q_heads = c.num_q_heads,
                                                   .block = {16, 24}},
                                                  {.num_threads = 2});
      CHECK(mask.sizes().batch == all[0]);
      CHECK(mask.sizes().num_q_heads == all[1]);
      CHECK(mask.stands_for_mask());
      CHECK_FALSE(mask.stands_for_mask_mod());
      check_blocks(mask, [&](auto batch, auto head, auto i, auto j) {
        return (all[3] == 1 || j < all[3]) && element({batch, head, i, j});
      });
    }
  }
}

TEST_CASE("lists of blocks") {
  for (const std::uint64_t seed : seeds(1, 100)) {
    Random random(seed);
    BlockMaskSizes sizes = random_sizes(random);
    sizes.batch = random.integer(1, 2);
    sizes.num_q_heads = random.integer(1, 2);
    INFO(repeat_command(seed));
    const std::int64_t q_blocks = blocks_of(sizes.q_len, sizes.block.q);
    const RandomLists lists(random, sizes.batch * sizes.num_q_heads * q_blocks,
                            blocks_of(sizes.kv_len, sizes.block.kv), true);
    const BlockMask mask = lists.block_mask(sizes);
    CHECK(mask.stands_for_mask_mod());
    CHECK(mask.stands_for_mask());
    CHECK(mask.density().has_value() == lists.partial.empty());
    CHECK(mask.counts().full == static_cast<std::int64_t>(lists.full.size()));
    CHECK(mask.counts().partial == static_cast<std::int64_t>(lists.partial.size()));
    int wrong = 0;
    for_each_index(
        {sizes.batch, sizes.num_q_heads, q_blocks, mask.kv_blocks()}, [&](const Dims& at) {
          const auto row =
              static_cast<std::size_t>((at[0] * sizes.num_q_heads + at[1]) * q_blocks + at[2]);
          const auto listed = [&](const auto& offsets, const auto& columns) {
            return std::find(columns.begin() + offsets[row], columns.begin() + offsets[row + 1],
                             at[3]) != columns.begin() + offsets[row + 1];
          };
          const BlockKind kind = listed(lists.full_offsets, lists.full)         ? BlockKind::full
                                 : listed(lists.partial_offsets, lists.partial) ? BlockKind::partial
                                                                                : BlockKind::empty;
          if (mask.kind(at[0], at[1], at[2], at[3]) != kind) ++wrong;
        });
    CHECK(wrong == 0);
    check_summary(mask, random);
  }
  const BlockMask nothing = BlockMask::from_lists({}, {}, {.q_len = 65, .kv_len = 64});
  CHECK(nothing.counts().empty == 2);
  CHECK(nothing.density() == 0.0);
}

TEST_CASE("copies and moved-from masks are the same mask") {
  const std::vector<VisibleRange> ranges{{0, 2, 1, 3}};
  BlockMask mask = BlockMask::from_ranges(ranges, {.q_len = 2, .kv_len = 4, .block = {2, 1}});
  const BlockMask moved = std::move(mask);
  for (const BlockMask* each : {&std::as_const(mask), &moved}) {
    CHECK(each->kind(5, 7, 0, 0) == BlockKind::empty);
    CHECK(each->kind(0, 0, 0, 1) == BlockKind::full);
    CHECK(each->density() == 0.5);
  }
}
