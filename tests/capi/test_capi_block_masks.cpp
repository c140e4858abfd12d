// Block masks and merged states by the C interface: what the C++ library makes of the same.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "capi/compare.hpp"
#include "support/block_masks.hpp"
#include "support/c_calls.hpp"

using namespace attn;
using namespace attn::test;

namespace {

attn_block_mask_sizes c_sizes(const BlockMaskSizes& sizes) {
  return {sizes.q_len, sizes.kv_len, sizes.batch, sizes.num_q_heads, sizes.block.q, sizes.block.kv};
}

/// The call with the block mask, by both; besides what the C functions say about the mask.
void check_block_mask(const Case& c, const BlockMask& wanted_mask, const attn_block_mask* mask) {
  const Inputs inputs = make_inputs(c);
  Outputs wanted = make_outputs(c), got = make_outputs(c);
  AttentionOptions with_mask = c.options;
  with_mask.block_mask = wanted_mask;
  attention(bind(inputs, wanted), with_mask);
  const CCall call(bind(inputs, got), c.options, {});
  REQUIRE_OK(attn_options_set_block_mask(call.options, mask));
  REQUIRE_OK(attn_attention(call.arguments.data(), call.arguments.size(), call.options, NULL));
  check_same(got, wanted);

  attn_block_mask_sizes sizes{};
  REQUIRE_OK(attn_block_mask_get_sizes(mask, &sizes));
  const attn_block_mask_sizes needed = c_sizes(wanted_mask.sizes());
  CHECK(std::memcmp(&sizes, &needed, sizeof sizes) == 0);
  std::int64_t counts[3] = {};
  for (attn_block_kind kind = ATTN_BLOCK_EMPTY; kind <= ATTN_BLOCK_FULL; ++kind)
    REQUIRE_OK(attn_block_mask_count(mask, kind, &counts[kind]));
  CHECK(counts[ATTN_BLOCK_EMPTY] == wanted_mask.counts().empty);
  CHECK(counts[ATTN_BLOCK_PARTIAL] == wanted_mask.counts().partial);
  CHECK(counts[ATTN_BLOCK_FULL] == wanted_mask.counts().full);
  double density = -1;
  REQUIRE_OK(attn_block_mask_density(mask, &density));
  CHECK((wanted_mask.density() ? density == *wanted_mask.density() : std::isnan(density)));
  attn_block_kind kind = -1;
  REQUIRE_OK(attn_block_mask_get_kind(mask, 0, 0, 0, 0, &kind));
  CHECK(kind == static_cast<attn_block_kind>(wanted_mask.kind(0, 0, 0, 0)));
  const attn_key_run run{0, 0, 0, 3, 0, 0, 5};
  std::uint8_t visible[5] = {9, 9, 9, 9, 9};
  bool visible_wanted[5] = {};
  REQUIRE_OK(attn_block_mask_visible_keys(mask, &run, visible));
  wanted_mask.visible_keys({.batch = 0,
                            .q_head = 0,
                            .kv_head = 0,
                            .q_index = 3,
                            .q_position = 0,
                            .key_begin = 0,
                            .count = 5},
                           visible_wanted);
  for (int n = 0; n < 5; ++n) CHECK(visible[n] == visible_wanted[n]);
}

}  // namespace

TEST_CASE("Block masks of every kind") {
  Random random(5);
  Case c{.num_q_heads = 2, .num_kv_heads = 1, .q_len = 70, .kv_len = 90};
  const BlockMaskSizes sizes{.q_len = c.q_len, .kv_len = c.kv_len, .block = {16, 32}};
  const attn_block_mask_sizes sizes_in_c = c_sizes(sizes);

  SUBCASE("of documents") {
    const auto q_documents = random_documents(random, c.q_len);
    const auto kv_documents = random_documents(random, c.kv_len);
    const attn_tensor q = c_tensor(ids_of(q_documents)), kv = c_tensor(ids_of(kv_documents));
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_documents(mask.out(), &q, &kv, 16, 32));
    check_block_mask(
        c, BlockMask::from_documents(ids_of(q_documents), ids_of(kv_documents), sizes.block), mask);
  }
  SUBCASE("of ranges") {
    const auto ranges = random_ranges(random, c.q_len, c.kv_len);
    std::vector<attn_visible_range> in_c;
    for (const VisibleRange& range : ranges)
      in_c.push_back({range.q_begin, range.q_end, range.key_begin, range.key_end});
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_ranges(mask.out(), in_c.data(),
                                           static_cast<std::int64_t>(in_c.size()), &sizes_in_c));
    check_block_mask(c, BlockMask::from_ranges(ranges, sizes), mask);
  }
  SUBCASE("of a mask_mod") {
    c.options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = run.key_begin + n <= run.q_position && run.kv_head == 0;
    };
    const MaskModContext context{.group_size = 2, .q_position = QueryPosition::top_left()};
    c.options.q_position = context.q_position;
    const attn_mask_mod_context in_c{2, ATTN_TOP_LEFT};
    const attn_mask_mod function = [](void*, const attn_key_run* run, std::uint8_t* visible) {
      for (std::int64_t n = 0; n < run->count; ++n)
        visible[n] = run->key_begin + n <= run->q_position && run->kv_head == 0 ? 2 : 0;
      return std::int32_t{0};
    };
    attn_block_mask_sizes with_heads = sizes_in_c;
    with_heads.num_q_heads = 2;
    CBlockMask mask;
    REQUIRE_OK(
        attn_block_mask_from_mask_mod(mask.out(), function, nullptr, &with_heads, &in_c, NULL));
    BlockMaskSizes wanted_sizes = sizes;
    wanted_sizes.num_q_heads = 2;
    check_block_mask(c, BlockMask::from_mask_mod(c.options.mask_mod, wanted_sizes, context), mask);
  }
  SUBCASE("of a dense mask") {
    c.mask = {.shape = {c.q_len, c.kv_len}, .hidden = 0.9};
    const Inputs inputs = make_inputs(c);
    const attn_tensor dense = c_tensor(inputs.mask.view());
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_mask(mask.out(), &dense, &sizes_in_c, NULL));
    check_block_mask(c, BlockMask::from_mask(inputs.mask.view(), sizes), mask);
  }
  SUBCASE("of lists") {
    const RandomLists lists(random, 5, 3, false);
    const attn_tensor offsets = c_tensor(ids_of(lists.full_offsets));
    const attn_tensor columns = c_tensor(ids_of(lists.full));
    const attn_block_lists full{&offsets, &columns}, partial{nullptr, nullptr};
    CBlockMask mask;
    REQUIRE_OK(attn_block_mask_from_lists(mask.out(), &full, &partial, &sizes_in_c));
    check_block_mask(
        c, BlockMask::from_lists({ids_of(lists.full_offsets), ids_of(lists.full)}, {}, sizes),
        mask);
  }
}

TEST_CASE("States are cleared and merged") {
  const Case c{.num_q_heads = 2, .q_len = 5, .kv_len = 40};
  const Inputs inputs = make_inputs(c);
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    Outputs outputs = make_outputs(c);
    AttentionTensors tensors = bind(inputs, outputs);
    tensors.k = tensors.k.sliced(2, begin, end);
    tensors.v = tensors.v.sliced(2, begin, end);
    attention(tensors);
    return outputs;
  };
  Outputs a = part(0, 13), b = part(13, 40), wanted = make_outputs(c), got = make_outputs(c);
  merge({a.out.view(), a.lse.view()}, {b.out.view(), b.lse.view()},
        {wanted.out.view(), wanted.lse.view()});
  const auto c_state = [](Outputs& outputs, attn_tensor(&tensors)[2]) {
    tensors[0] = c_tensor(outputs.out.view());
    tensors[1] = c_tensor(outputs.lse.view());
    return attn_state{&tensors[0], &tensors[1]};
  };
  attn_tensor of_a[2], of_b[2], of_got[2];
  const attn_state state_a = c_state(a, of_a), state_b = c_state(b, of_b);
  const attn_state state_got = c_state(got, of_got);
  REQUIRE_OK(attn_merge(&state_a, &state_b, &state_got));
  check_same(got, wanted);
  REQUIRE_OK(attn_clear(&state_got));
  CHECK(got.lse.values() == std::vector<double>(10, -std::numeric_limits<double>::infinity()));
  REQUIRE_OK(attn_merge(&state_got, &state_a, &state_got));
  check_same(got, a);
}
