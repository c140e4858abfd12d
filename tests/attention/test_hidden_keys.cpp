// The contents of K and V at a key affect the rows that see it, and no others. Some keys are
// poisoned, hidden or not. Rows that see none of them keep the bits that they have with zeros
// there; rows that see one follow IEEE 754, as the reference does.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "oracle/plain_float.hpp"
#include "support/block_masks.hpp"
#include "support/check.hpp"
#include "support/poison.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// For each row of [batch, num_q_heads, q_len]: whether it sees none of the poisoned keys.
std::vector<bool> blind_rows(const Case& c, const AttentionTensors& tensors, const KeySet& keys) {
  std::vector<bool> blind;
  for_each_index({c.batch, c.num_q_heads, c.q_len}, [&](const Dims& at) {
    const std::int64_t kv_head = at[1] / (c.num_q_heads / c.num_kv_heads);
    const std::vector<bool> visible = detail::visible_keys(tensors, c.options, at[0], at[1], at[2]);
    bool sees = false;
    for (std::int64_t j = 0; j < c.kv_len && !sees; ++j)
      sees = visible[j] && keys.contains(at[0], kv_head, j);
    blind.push_back(!sees);
  });
  return blind;
}

/// Returns "" or the first of these rows whose bits differ.
std::string row_difference(const Outputs& a, const Outputs& b, const std::vector<bool>& rows) {
  const std::vector<std::uint64_t> out_a = a.out.bits(), out_b = b.out.bits(), lse_a = a.lse.bits(),
                                   lse_b = b.lse.bits();
  const auto width = static_cast<std::ptrdiff_t>(a.out.shape()[3]);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (!rows[row]) continue;
    const auto begin = static_cast<std::ptrdiff_t>(row) * width;
    const bool same =
        std::equal(out_a.begin() + begin, out_a.begin() + begin + width, out_b.begin() + begin);
    if (!same || (!lse_a.empty() && lse_a[row] != lse_b[row]))
      return fmt::format("row {} of [batch, head, query] changed", row);
  }
  return "";
}

/// The tensors that can be poisoned: rows of floats, or the scales of i8.
StridedTensor& floats_of(StridedTensor& rows, StridedTensor& scales) {
  return rows.dtype() == DType::i8 ? scales : rows;
}

/// Poisons all of K and V from a key on.
Inputs filled_from(std::int64_t first_key, std::uint64_t bits, Inputs inputs) {
  for (StridedTensor* kv :
       {&floats_of(inputs.k, inputs.k_scales), &floats_of(inputs.v, inputs.v_scales)}) {
    for_each_index(kv->shape(), [&](const Dims& at) {
      if (at[2] >= first_key) kv->set_bits(at, bits);
    });
  }
  return inputs;
}

enum class Where { keys, values, both };

void poison(Inputs& inputs, const KeySet& keys, Where where, std::uint64_t bits,
            bool needs_full_rows) {
  if (where != Where::values)
    put(floats_of(inputs.k, inputs.k_scales), keys, bits, needs_full_rows);
  if (where != Where::keys) put(floats_of(inputs.v, inputs.v_scales), keys, bits, needs_full_rows);
}

void check_one_poison(const Case& c, const KeySet& keys, Where where, std::uint64_t bits,
                      bool needs_full_rows) {
  Inputs zeroed = make_inputs(c), poisoned = make_inputs(c);
  poison(zeroed, keys, where, 0, needs_full_rows);
  poison(poisoned, keys, where, bits, needs_full_rows);
  CAPTURE(static_cast<int>(where));
  CAPTURE(fmt::format("{:#x}", bits));
  CAPTURE(needs_full_rows);
  const Expected expected = expected_of(c, poisoned);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  const bool specified = c.kv_type != DType::i8 || nan;  // the result of infinite scales is not
  Outputs unused = make_outputs(c);
  const std::vector<bool> blind = blind_rows(c, bind(poisoned, unused), keys);
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    const Outputs got = run(poisoned, c, isa);
    CHECK(row_difference(got, run(zeroed, c, isa), blind) == "");
    if (specified) CHECK(difference(got, expected) == "");
  }
}

void check_poison(const Case& c, double share) {
  INFO(repeat_line(c));
  CAPTURE(share);
  const KeySet keys({c.batch, c.num_kv_heads, c.kv_len, 1}, share, c.seed);
  int turn = 0;
  for (const std::uint64_t bits : poisons(c.kv_type)) {
    // The largest number overflows in float but not in double, so no row may see it.
    if (bits == poisons(c.kv_type).back()) continue;
    for (const Where where : {Where::keys, Where::values, Where::both})
      check_one_poison(c, keys, where, bits, ++turn % 2 == 0);
  }
}

void odd_keys_seen(const KeyRun& run, bool* seen) {
  for (std::int64_t n = 0; n < run.count; ++n) seen[n] = (run.key_begin + n + run.q_index) % 2 != 0;
}

Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 21,
          .kv_len = 90,
          .head_dim = 9,
          .v_head_dim = 18,
          .layout = Layout::padded};
}

/// Few rows, so that keys and values are read in place.
Case few_rows() {
  Case c = usual();
  c.q_len = 5;
  c.kv_len = 150;
  return c;
}

/// Each kind of mask alone.
template <class F>
void for_each_mask(const Case& sizes, F&& f) {
  const auto with = [&](auto&& change) {
    Case c = sizes;
    change(c);
    f(c);
  };
  with([](Case& c) { c.options.causal = Causal::bottom_right(); });
  with([](Case& c) { c.options.causal = Causal::top_left(); });
  with([](Case& c) { c.options.window = Window{3, 2}; });
  with([](Case& c) { c.kv_lens = {c.kv_len / 3, c.kv_len - 1}; });
  with([](Case& c) { c.mask = {.shape = {c.q_len, c.kv_len}, .hidden = 0.7}; });
  with([](Case& c) {
    c.mask = {.dtype = DType::f32, .shape = {c.q_len, c.kv_len}, .hidden = 0.7};
  });
  with([](Case& c) { c.mask = {.shape = {c.q_len, c.kv_len / 2}}; });
  for (const DType dtype : {DType::boolean, DType::bf16}) {
    with([dtype](Case& c) {
      c.mask = {.dtype = dtype, .shape = {c.q_len, c.kv_len / 2}, .hidden = 0.9};
      c.options.mask_keys = MaskKeys::last;
    });
  }
  with([](Case& c) { c.options.mask_mod = odd_keys_seen; });
  with([](Case& c) {
    Random random(5);
    const RandomLists lists(random, blocks_of(c.q_len, 4), blocks_of(c.kv_len, 8), true);
    c.options.mask_mod = odd_keys_seen;
    c.options.block_mask =
        lists.block_mask({.q_len = c.q_len, .kv_len = c.kv_len, .block = {4, 8}});
  });
  with([](Case& c) {
    const std::vector<VisibleRange> ranges{{0, 3, 5, 40}, {2, c.q_len, 33, 70}};
    c.options.block_mask =
        BlockMask::from_ranges(ranges, {.q_len = c.q_len, .kv_len = c.kv_len, .block = {2, 16}});
  });
  with([](Case& c) {
    c.options.causal = Causal::with_offset(30);
    c.options.window = Window{20, {}};
    c.mask = {.dtype = DType::f32, .shape = {c.batch, 1, c.q_len, c.kv_len - 7}};
    c.kv_lens = {c.kv_len / 2, c.kv_len};
    c.options.softcap = 4.f;
    c.alibi = c.sinks = true;
  });
}

void check_keys_seen_by_none(const Case& sizes) {
  for_each_mask(sizes, [](Case c) {
    INFO(repeat_line(c));
    c.options.causal = Causal::with_offset(20);
    const std::int64_t first_hidden = 20 + c.q_len;
    const std::vector<bool> all(static_cast<std::size_t>(c.batch * c.num_q_heads * c.q_len), true);
    const Inputs zeroed = filled_from(first_hidden, 0, make_inputs(c));
    for (const std::uint64_t bits : poisons(c.kv_type)) {
      const Inputs poisoned = filled_from(first_hidden, bits, make_inputs(c));
      for (const Isa isa : available_isas())
        CHECK(row_difference(run(poisoned, c, isa), run(zeroed, c, isa), all) == "");
    }
  });
}

void check_poisoned_queries(Case c) {
  c.options.causal = Causal::bottom_right();
  INFO(repeat_line(c));
  const Inputs clean = make_inputs(c);
  for (const std::uint64_t bits : poisons(c.q_type)) {
    Inputs poisoned = make_inputs(c);
    for (const std::int64_t row : {std::int64_t{0}, c.q_len / 4, c.q_len - 1})
      poisoned.q.set_bits({1, 2, row, 3}, bits);
    std::vector<bool> others(static_cast<std::size_t>(c.batch * c.num_q_heads * c.q_len), true);
    for (const std::int64_t row : {std::int64_t{0}, c.q_len / 4, c.q_len - 1})
      others[static_cast<std::size_t>((1 * c.num_q_heads + 2) * c.q_len + row)] = false;
    for (const Isa isa : available_isas())
      CHECK(row_difference(run(poisoned, c, isa), run(clean, c, isa), others) == "");
  }
}

}  // namespace

TEST_CASE("A few poisoned keys") {
  for_each_mask(usual(), [](const Case& c) { check_poison(c, 0.05); });
  for_each_mask(few_rows(), [](const Case& c) { check_poison(c, 0.05); });
}

TEST_CASE("Many poisoned keys") {
  for_each_mask(usual(), [](const Case& c) { check_poison(c, 0.5); });
  for_each_mask(few_rows(), [](const Case& c) { check_poison(c, 0.5); });
}

TEST_CASE("16-bit keys and values") {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (Case sizes : {usual(), few_rows()}) {
      sizes.q_type = sizes.kv_type = dtype;
      for_each_mask(sizes, [](const Case& c) { check_poison(c, 0.1); });
    }
  }
}

TEST_CASE("Scales of i8") {
  for (Case sizes : {usual(), few_rows()}) {
    sizes.kv_type = DType::i8;
    for (const DType q_type : {DType::f32, DType::bf16}) {
      sizes.q_type = q_type;
      for_each_mask(sizes, [](const Case& c) { check_poison(c, 0.1); });
    }
  }
}

TEST_CASE("Few rows whose keys are split, or whose elements do not lie side by side") {
  Case c{.num_q_heads = 2,
         .num_kv_heads = 1,
         .q_len = 4,
         .kv_len = 1030,
         .head_dim = 64,
         .options = {.causal = Causal::bottom_right()}};
  for (const DType dtype : {DType::f32, DType::i8}) {
    c.kv_type = dtype;
    check_poison(c, 0.005);
  }
  for_each_mask(few_rows(), [](Case strided) {
    strided.layout = Layout::strided_dim;
    check_poison(strided, 0.1);
  });
}

TEST_CASE("Poison in some blocks of keys and not in others") {
  Case c{.num_q_heads = 2,
         .num_kv_heads = 1,
         .q_len = 40,
         .kv_len = 300,
         .head_dim = 200,
         .v_head_dim = 130};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    c.q_type = c.kv_type = dtype;
    for (const auto& causal : {Causal::bottom_right(), Causal::with_offset(100)}) {
      c.options.causal = causal;
      check_poison(c, 0.01);
    }
  }
  c.lse = false;
  c.options.normalizer = Normalizer::sparsemax();
  c.options.causal = Causal::bottom_right();
  c.options.softmax_scale = 0.5f;  // so sparse that some blocks have probability 0; visible
                                   // keys there are poisoned all the same
  c.kv_len = 1300;
  c.q_len = 14;
  c.q_type = c.kv_type = DType::f32;
  c.mask = {.shape = {14, 1300}};
  check_poison(c, 0.01);
}

TEST_CASE("Normalizers that take whole rows") {
  const auto check = [](Case sizes, const Normalizer& normalizer) {
    sizes.lse = false;
    sizes.options.normalizer = normalizer;
    for_each_mask(sizes, [](Case c) {
      if (c.options.normalizer.kind() == Normalizer::Kind::sigmoid) c.sinks = false;
      check_poison(c, 0.1);
    });
  };
  check(usual(), Normalizer::sigmoid());
  check(usual(), Normalizer::entmax(1.5f));
  Case few = few_rows();
  few.kv_type = DType::i8;
  check(few, Normalizer::sparsemax());
}

TEST_CASE("Keys that no row sees may hold anything") {
  for (Case sizes : {usual(), few_rows()}) {
    check_keys_seen_by_none(sizes);
    sizes.kv_type = DType::i8;
    check_keys_seen_by_none(sizes);
  }
}

TEST_CASE("NaN and infinity in Q stay in their row") {
  check_poisoned_queries(usual());
  check_poisoned_queries(few_rows());
  Case split = few_rows();
  split.kv_len = 2100;
  split.head_dim = split.v_head_dim.emplace(64);
  check_poisoned_queries(split);
}

TEST_CASE("Visible infinities in V: one sign gives it, both give NaN, in their column alone") {
  const Case c{.q_len = 7, .kv_len = 100, .head_dim = 4, .v_head_dim = 5};
  Inputs inputs = make_inputs(c);
  inputs.v.set({0, 0, 40, 1}, HUGE_VAL);
  inputs.v.set({0, 0, 3, 3}, HUGE_VAL);
  inputs.v.set({0, 0, 99, 3}, -HUGE_VAL);
  check_inputs(c, inputs);
  for (const Isa isa : available_isas()) {
    const Outputs got = run(inputs, c, isa);
    const std::vector<double> out = got.out.values();
    for (std::size_t n = 0; n < out.size(); ++n) {
      if (n % 5 == 1)
        CHECK(out[n] == HUGE_VAL);
      else
        CHECK(std::isfinite(out[n]) == (n % 5 != 3));
    }
  }
}
