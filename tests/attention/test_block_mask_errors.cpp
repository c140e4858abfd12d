// What the makers of block masks and their queries refuse.
#include <attn/block_mask.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/block_masks.hpp"
#include "support/check_fails.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void refused(const std::vector<std::string>& fragments, const std::function<void()>& run) {
  check_fails(ErrorCode::invalid_argument, fragments, run);
}

void all_visible(const KeyRun& run, bool* visible) { std::fill_n(visible, run.count, true); }

}  // namespace

TEST_CASE("sizes that are refused") {
  const auto check = [](const BlockMaskSizes& sizes, const std::vector<std::string>& fragments) {
    refused(fragments, [&] { BlockMask::from_mask_mod(all_visible, sizes); });
    refused(fragments, [&] { BlockMask::from_ranges({}, sizes); });
    refused(fragments, [&] { BlockMask::from_lists({}, {}, sizes); });
    const bool element = true;
    refused(fragments, [&] { BlockMask::from_mask(TensorView(&element, {1}), sizes); });
  };
  constexpr std::int64_t huge = std::int64_t{1} << 40,
                         most = std::numeric_limits<std::int64_t>::max();
  check({.q_len = -1, .kv_len = 4}, {"dim 2 is -1"});
  check({.q_len = 4, .kv_len = -2}, {"dim 3 is -2"});
  check({.q_len = 4, .kv_len = 4, .batch = -1}, {"dim 0 is -1"});
  check({.q_len = 4, .kv_len = 4, .num_q_heads = -1}, {"dim 1 is -1"});
  check({.q_len = huge, .kv_len = huge}, {"2^48"});
  check({.q_len = most, .kv_len = most}, {"2^48"});
  check({.q_len = 4, .kv_len = 4, .block = {0, 4}}, {"block.q is 0"});
  check({.q_len = 4, .kv_len = 4, .block = {4, -4}}, {"block.kv is -4"});
  const BlockMask whole =
      BlockMask::from_mask_mod(all_visible, {.q_len = 4, .kv_len = 4, .block = {most, most}});
  CHECK(whole.kind(0, 0, 0, 0) == BlockKind::full);
}

TEST_CASE("mask_mods and dense masks that are refused") {
  const BlockMaskSizes sizes{.q_len = 4, .kv_len = 6, .batch = 2, .num_q_heads = 3};
  refused({"mask_mod is empty"}, [&] { BlockMask::from_mask_mod({}, sizes); });
  const auto with = [&](const MaskModContext& context, const Execution& execution = {}) {
    BlockMask::from_mask_mod(all_visible, sizes, context, execution);
  };
  refused({"group_size is 0"}, [&] { with({.group_size = 0}); });
  refused({"group_size is 2", "3"}, [&] { with({.group_size = 2}); });
  refused({"q_position"}, [&] { with({.q_position = {std::int64_t{1} << 60}}); });
  refused({"num_threads is 0"}, [&] { with({}, {.num_threads = 0}); });
  const auto mask = [&](const Dims& shape, DType dtype = DType::boolean) {
    const StridedTensor tensor(dtype, shape);
    BlockMask::from_mask(tensor.view(), sizes);
  };
  refused({"mask is missing"}, [&] { BlockMask::from_mask({}, sizes); });
  refused({"mask has type i64"}, [&] { mask({6}, DType::i64); });
  refused({"mask", "rank 0"}, [&] { mask({}); });
  refused({"mask", "rank 5"}, [&] { mask({1, 1, 1, 1, 1}); });
  refused({"mask", "dim is 7", "kv_len is 6"}, [&] { mask({7}); });
  refused({"mask", "dim 0 is 5", "4"}, [&] { mask({5, 6}); });
  refused({"mask", "dim 0 is 2", "3"}, [&] { mask({2, 4, 6}); });
  refused({"mask", "dim 0 is 3", "2"}, [&] { mask({3, 3, 4, 6}); });
  refused({"mask", "null"}, [&] {
    BlockMask::from_mask({static_cast<const void*>(nullptr), DType::boolean, {4, 6}}, sizes);
  });
}

TEST_CASE("documents and ranges that are refused") {
  const auto documents = [](const Dims& queries, const Dims& keys, DType q = DType::i64,
                            DType k = DType::i32, BlockSize block = {}) {
    const StridedTensor of_queries(q, queries), of_keys(k, keys);
    BlockMask::from_documents(of_queries.view(), of_keys.view(), block);
  };
  refused({"q_documents has type f32"}, [&] { documents({4}, {6}, DType::f32); });
  refused({"kv_documents has type boolean"},
          [&] { documents({4}, {6}, DType::i32, DType::boolean); });
  refused({"q_documents", "rank 3"}, [&] { documents({1, 2, 4}, {6}); });
  refused({"kv_documents", "rank 0"}, [&] { documents({4}, {}); });
  refused({"q_documents", "dim 0 is 2", "3"}, [&] { documents({2, 4}, {3, 6}); });
  refused({"block.q is 0"}, [&] { documents({4}, {6}, DType::i32, DType::i32, {0, 1}); });
  refused({"kv_documents is missing"}, [&] {
    const StridedTensor queries(DType::i32, {4});
    BlockMask::from_documents(queries.view(), {});
  });
  const auto ranges = [](const VisibleRange& range, std::int64_t batch = 1) {
    const std::vector<VisibleRange> all{{0, 4, 0, 6}, range};
    BlockMask::from_ranges(all, {.q_len = 4, .kv_len = 6, .batch = batch});
  };
  refused({"ranges[1]", "queries -1 to 2"}, [&] { ranges({-1, 2, 0, 1}); });
  refused({"ranges[1]", "queries 3 to 2"}, [&] { ranges({3, 2, 0, 1}); });
  refused({"ranges[1]", "queries 0 to 5", "q_len = 4"}, [&] { ranges({0, 5, 0, 1}); });
  refused({"ranges[1]", "keys 2 to 7", "kv_len = 6"}, [&] { ranges({0, 1, 2, 7}); });
  refused({"batch is 2"}, [&] { ranges({0, 1, 0, 1}, 2); });
}

TEST_CASE("lists that are refused") {
  // 2 x 3 blocks
  const BlockMaskSizes sizes{.q_len = 8, .kv_len = 9, .block = {4, 4}};
  using Numbers = std::vector<std::int64_t>;
  const auto lists = [&](const Numbers& full_offsets, const Numbers& full,
                         const Numbers& partial_offsets = {0, 0, 0}, const Numbers& partial = {}) {
    BlockMask::from_lists({ids_of(full_offsets), ids_of(full)},
                          {ids_of(partial_offsets), ids_of(partial)}, sizes);
  };
  refused({"full.offsets", "dim 0 is 2", "3"}, [&] { lists({0, 0}, {}); });
  refused({"full.offsets[0] is 1"}, [&] { lists({1, 1, 1}, {0}); });
  refused({"full.offsets[2] is 1, below", "[1] = 2"}, [&] { lists({0, 2, 1}, {0, 1}); });
  refused({"full.offsets[2] is 1", "2, the number of columns"}, [&] { lists({0, 1, 1}, {0, 1}); });
  refused({"full.columns[1] is 3", "0..2"}, [&] { lists({0, 1, 2}, {0, 3}); });
  refused({"partial.columns[0] is -1"}, [&] { lists({0, 0, 0}, {}, {0, 1, 1}, {-1}); });
  refused({"full.columns[1] is 2", "row 0"}, [&] { lists({0, 2, 2}, {2, 2}); });
  refused({"partial.columns[0] is 1", "row 1"}, [&] { lists({0, 0, 1}, {1}, {0, 0, 1}, {1}); });
  refused({"full.columns is missing"}, [&] {
    BlockMask::from_lists({ids_of({0, 0, 0}), {}}, {}, sizes);
  });
  refused({"partial.offsets is missing"}, [&] {
    const Numbers columns{0};
    BlockMask::from_lists({}, {{}, ids_of(columns)}, sizes);
  });
  refused({"full.offsets has type f32"}, [&] {
    const StridedTensor offsets(DType::f32, {3}), columns(DType::i32, {0});
    BlockMask::from_lists({offsets.view(), columns.view()}, {}, sizes);
  });
}

TEST_CASE("queries that are refused") {
  const BlockMask mask = BlockMask::from_mask_mod(
      all_visible, {.q_len = 8, .kv_len = 9, .batch = 2, .num_q_heads = 2, .block = {4, 4}});
  refused({"batch is 2"}, [&] { mask.kind(2, 0, 0, 0); });
  refused({"q_head is -1"}, [&] { mask.kind(0, -1, 0, 0); });
  refused({"q_block is 2"}, [&] { mask.kind(0, 0, 2, 0); });
  refused({"kv_block is 3"}, [&] { mask.kind(0, 0, 0, 3); });
  bool visible[9];
  const auto keys = [&](std::int64_t q_index, std::int64_t begin, std::int64_t count) {
    mask.visible_keys({0, 0, 0, q_index, 0, begin, count}, visible);
  };
  refused({"q_index is 8"}, [&] { keys(8, 0, 1); });
  refused({"key_begin is -1"}, [&] { keys(0, -1, 1); });
  refused({"count is 3"}, [&] { keys(0, 7, 3); });
}
