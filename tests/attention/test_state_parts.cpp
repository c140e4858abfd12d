// Attention over disjoint ranges of keys, merged by merge(), equals attention over all keys.
#include <attn/attention.hpp>
#include <attn/isa.hpp>
#include <attn/state.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/states.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// A call that has only keys begin to end - 1. Its key positions count from `begin`.
struct KeyRange {
  Case c;
  Inputs inputs;          // copies of those keys
  TensorView k, v, mask;  // views of those keys in the whole tensors

  KeyRange(const Case& whole, const Inputs& all, std::int64_t begin, std::int64_t end,
           bool with_sinks)
      : c(whole) {
    c.kv_len = end - begin;
    c.sinks = with_sinks;
    if (c.options.causal)
      c.options.causal = Causal::with_offset(*c.options.causal->position->offset - begin);
    for (std::int64_t& length : c.kv_lens)
      length = std::clamp<std::int64_t>(length - begin, 0, c.kv_len);

    k = all.k.view().sliced(2, begin, end);
    v = all.v.view().sliced(2, begin, end);
    mask = all.mask.view_if_made();
    if (!mask.absent()) mask = mask.sliced(mask.rank() - 1, begin, end);
    inputs.q = copy_of(all.q.view());
    inputs.k = copy_of(k);
    inputs.v = copy_of(v);
    if (!mask.absent()) inputs.mask = copy_of(mask);
    if (c.alibi) inputs.alibi_slopes = copy_of(all.alibi_slopes.view());
    if (c.sinks) inputs.sinks = copy_of(all.sinks.view());
    if (!c.kv_lens.empty()) {
      inputs.kv_lens = StridedTensor(c.kv_lens_type, {c.batch});
      inputs.kv_lens.assign({c.kv_lens.begin(), c.kv_lens.end()});
    }
  }

  Outputs run(Isa isa) const {
    Outputs part = make_outputs(c);
    AttentionTensors tensors = bind(inputs, part);
    tensors.k = k;
    tensors.v = v;
    tensors.mask = mask;
    Execution execution = c.execution;
    execution.isa = isa;
    attention(tensors, c.options, execution);
    return part;
  }
};

using Cuts = std::vector<std::int64_t>;

Cuts every(std::int64_t step, std::int64_t kv_len) {
  Cuts cuts;
  for (std::int64_t key = 0; key < kv_len; key += step) cuts.push_back(key);
  cuts.push_back(kv_len);
  return cuts;
}

/// The reference's result for all keys, with a tolerance for the merge of parts. The error of O is
/// at most that of the worst part, since merging averages; plus the effect of errors in lse, where
/// lse that are off by t change the shares by at most 2 t; plus the rounding of the merges.
Expected expected_of_parts(const Case& c, const Inputs& inputs, const std::vector<KeyRange>& parts,
                           DType into_type) {
  Expected expected = expected_of(c, inputs);
  const double largest_value = largest_finite(inputs.v.values());
  double largest_lse = largest_finite(expected.lse), out_tolerance = 0, lse_tolerance = 0;
  for (const KeyRange& range : parts) {
    const Expected part = expected_of(range.c, range.inputs);
    largest_lse = std::max(largest_lse, largest_finite(part.lse));
    out_tolerance = std::max(out_tolerance, part.out_tolerance);
    lse_tolerance = std::max(lse_tolerance, part.lse_tolerance);
  }
  const MergeTolerance merging(parts.size(), into_type, largest_value, largest_lse);
  expected.out_tolerance = out_tolerance + 2 * lse_tolerance * largest_value + merging.out;
  expected.lse_tolerance = lse_tolerance + merging.lse;
  return expected;
}

/// Whether the part has rows without keys as well as rows with keys.
bool some_rows_without_keys(const Outputs& part) {
  const std::vector<double> lse = part.lse.values();
  const auto empty = std::count(lse.begin(), lse.end(), -infinity);
  return empty > 0 && empty < static_cast<std::int64_t>(lse.size());
}

/// Checks that attention over ranges of keys, merged, equals attention over all keys. Returns how
/// many parts had rows with and without keys.
int check_parts(const Case& c, const Cuts& cuts, std::size_t part_with_sinks = 0,
                DType into_type = DType::f32) {
  INFO(repeat_line(c));
  const Inputs inputs = make_inputs(c);
  std::vector<KeyRange> ranges;
  for (std::size_t n = 0; n + 1 < cuts.size(); ++n) {
    ranges.emplace_back(c, inputs, cuts[n], cuts[n + 1], c.sinks && n == part_with_sinks);
  }
  const Expected expected = expected_of_parts(c, inputs, ranges, into_type);
  int mixed = 0;
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    Outputs whole =
        poisoned_part(into_type, {c.batch, c.num_q_heads, c.q_len, c.value_dim()}, c.layout);
    clear(state_of(whole));
    for (const KeyRange& range : ranges) {
      const Outputs part = range.run(isa);
      mixed += some_rows_without_keys(part);
      merge(state_of(whole), state_of(part));
    }
    CHECK(difference(whole, expected) == "");
  }
  return mixed;
}

Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 9,
          .kv_len = 97,
          .head_dim = 24,
          .v_head_dim = 17};
}

}  // namespace

TEST_CASE("Merged parts of attention over disjoint keys equal attention over all keys") {
  for (const Cuts& cuts : {Cuts{0, 50, 97}, Cuts{0, 1, 97}, Cuts{0, 32, 64, 97},
                           Cuts{0, 0, 40, 40, 97, 97}, every(7, 97), every(1, 97)}) {
    check_parts(usual(), cuts);
    Case sink = usual();
    sink.sinks = true;
    for (std::size_t part = 0; part + 1 < std::min<std::size_t>(cuts.size(), 4); ++part)
      check_parts(sink, cuts, part);
  }
}

TEST_CASE("Merged parts of a long row of keys") {
  Case c{.num_q_heads = 2, .q_len = 1, .kv_len = 5000, .head_dim = 16};
  c.sinks = true;
  check_parts(c, {0, 1234, 5000});
  check_parts(c, every(613, 5000), 3);
}

TEST_CASE("Merged parts, some of whose rows have no keys") {
  for (const Cuts& cuts : {Cuts{0, 50, 97}, Cuts{0, 5, 60, 97}, every(7, 97)}) {
    for (const bool sinks : {false, true}) {
      Case c = usual();
      c.sinks = sinks;
      int mixed = 0;
      for (const DType dtype : {DType::boolean, DType::f32}) {
        c.mask = {.dtype = dtype, .shape = {4, 9, 97}, .hidden = 0.97};
        mixed += check_parts(c, cuts, 1);
      }
      CHECK(mixed > 0);
      c.mask.reset();
      mixed = 0;
      for (const std::int64_t offset : {-4, 3, 45, 88}) {
        c.options.causal = Causal::with_offset(offset);
        mixed += check_parts(c, cuts, 1);
        c.options.window = Window{6, {}};
        mixed += check_parts(c, cuts, 1);
        c.options.window.reset();
      }
      CHECK(mixed > 0);
      c.options.causal.reset();
      c.kv_lens = {0, 55};
      // With a sink, a part without keys has a finite lse.
      CHECK((check_parts(c, cuts, 1) > 0 || sinks));
    }
  }
}

TEST_CASE("Merged parts with every feature of scores, in every type and layout") {
  for (const DType dtype : types) {
    for (const DType into_type : types) {
      for (const Layout layout : layouts) {
        Case c = usual();
        c.q_type = c.kv_type = c.out_type = dtype;
        c.layout = layout;
        c.options = {.softcap = 4.f, .causal = Causal::with_offset(70), .window = Window{50, {}}};
        c.mask = {.dtype = DType::f32, .shape = {9, 97}};
        c.alibi = c.sinks = true;
        c.kv_lens = {97, 40};
        check_parts(c, {0, 33, 61, 97}, 2, into_type);
      }
    }
  }
}
