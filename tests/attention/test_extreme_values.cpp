// Values near the ends of what a type holds: means of values near the greatest float are finite,
// values near the smallest count, and infinite sinks mean the same on every path.
#include <doctest/doctest.h>
#include <attn/reference.hpp>
#include <attn/state.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double greatest = std::numeric_limits<float>::max();

/// The paths: packed keys, with several blocks of keys; keys in place, split and not; one key;
/// blocks of keys in place, split.
std::vector<Case> shapes() {
  const auto shape = [](std::int64_t q_len, std::int64_t kv_len, std::int64_t v_head_dim) {
    Case c;
    c.batch = 2;
    c.num_q_heads = 4;
    c.num_kv_heads = 2;
    c.q_len = q_len;
    c.kv_len = kv_len;
    c.v_head_dim = v_head_dim;
    return c;
  };
  return {shape(26, 600, 70), shape(2, 90, 17), shape(1, 5000, 8), shape(60, 1, 3),
          shape(30, 5000, 40)};
}

/// Values of a magnitude that is a power of two, in [1, 2) times it, of either sign if `signs`.
void fill_values(StridedTensor& v, double magnitude, bool signs, std::uint64_t seed) {
  Random random(seed);
  for_each_index(v.shape(), [&](const Dims& at) {
    const double sign = signs && random.chance(0.5) ? -1 : 1;
    v.set(at, sign * magnitude * (1 + random.uniform()));
  });
}

std::vector<double> reference_of(const Inputs& inputs, const Case& c) {
  Outputs outputs = make_outputs(c);
  attention_reference(bind(inputs, outputs), c.options);
  return outputs.out.values();
}

void check_values(const Case& c, const Inputs& inputs, double tolerance) {
  INFO(to_string(c));
  const std::vector<double> expected = reference_of(inputs, c);
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    CHECK(difference(run(inputs, c, isa).out.values(), expected, tolerance) == "");
  }
}

/// Each rounding of O costs at most 2^-24 of the greatest value, and a sum in float of n
/// probabilities sqrt(n) such roundings, with room for the scores' own.
void check_near_the_limit(Case c, bool signs) {
  Inputs inputs = make_inputs(c);
  fill_values(inputs.v, 0x1p126, signs, c.seed);
  check_values(c, inputs, greatest * 0x1p-20);
}

Case with(Case c, const Normalizer& normalizer) {
  c.options.normalizer = normalizer;
  c.lse = normalizer.kind() == Normalizer::Kind::softmax;
  return c;
}

const Normalizer normalizers[] = {Normalizer::softmax(), Normalizer::sparsemax(),
                                  Normalizer::entmax(1.5f), Normalizer::entmax(1.3f)};

}  // namespace

TEST_CASE("sums of values near the greatest float do not overflow") {
  for (const Case& c : shapes()) {
    for (const bool signs : {false, true}) {
      check_near_the_limit(c, signs);
      Case masked = c;
      masked.options.causal = Causal::bottom_right();
      masked.mask = DenseMask{.shape = {c.q_len, c.kv_len}};
      masked.sinks = true;
      check_near_the_limit(masked, signs);
    }
    for (const Normalizer& normalizer : normalizers)
      check_near_the_limit(with(c, normalizer), true);
  }
}

TEST_CASE("the greatest float is its own mean") {
  for (const Case& c : shapes()) {
    Inputs inputs = make_inputs(c);
    for_each_index(inputs.v.shape(), [&](const Dims& at) { inputs.v.set(at, greatest); });
    for (const Isa isa : available_isas()) {
      const std::vector<double> out = run(inputs, c, isa).out.values();
      CHECK(difference(out, std::vector(out.size(), greatest), greatest * 0x1p-20) == "");
    }
  }
}

TEST_CASE("columns that overflow do not depend on what hidden keys hold, nor on other columns") {
  for (const Case& shape : shapes()) {
    if (shape.kv_len == 1) continue;
    for (const Normalizer& normalizer : normalizers) {
      Case c = with(shape, normalizer);
      c.options.causal = Causal::with_offset(c.kv_len - c.q_len - 1);
      Inputs inputs = make_inputs(c);
      fill_values(inputs.v, 0x1p126, false, c.seed);
      const std::int64_t hidden = c.kv_len - 1, seen = c.kv_len / 2;
      for (std::int64_t d = 0; d < c.value_dim(); ++d)
        inputs.v.set({0, 0, hidden, d}, std::numeric_limits<double>::quiet_NaN());
      inputs.v.set({0, 1, seen, 0}, std::numeric_limits<double>::infinity());
      inputs.v.set({1, 0, seen, 1}, std::numeric_limits<double>::quiet_NaN());
      check_values(c, inputs, greatest * 0x1p-20);
    }
  }
}

TEST_CASE("weights of sigmoid that add up to more than 1 overflow only where the result does") {
  const Case c = with(shapes()[0], Normalizer::sigmoid());
  Inputs inputs = make_inputs(c);
  // Pairs of keys whose values cancel, but for a small rest.
  for_each_index(inputs.v.shape(), [&](const Dims& at) {
    inputs.v.set(at, (at[2] < c.kv_len / 2 ? 1 : -1) * greatest / 4);
  });
  check_values(c, inputs, greatest * 0x1p-14);
}

TEST_CASE("small values of bf16 count") {
  for (Case c : shapes()) {
    c.q_type = c.kv_type = DType::bf16;
    for (const double magnitude : {0x1p-132, 0x1p-126, 0x1p-110, 0x1p-101}) {
      CAPTURE(magnitude);
      for (const bool signs : {false, true}) {
        Inputs inputs = make_inputs(c);
        fill_values(inputs.v, magnitude, signs, c.seed);
        // Probabilities may be rounded to bf16, by 2^-9 each.
        check_values(c, inputs, 2 * magnitude * 0x1p-9 + 0x1p-149);
      }
    }
  }
}

TEST_CASE("sums of bf16 that cancel depend neither on hidden keys nor on the threads") {
  Case c{.num_q_heads = 20,
         .kv_len = 6,
         .head_dim = 64,
         .q_type = DType::bf16,
         .kv_type = DType::bf16,
         .mask = DenseMask{.shape = {1, 6}, .hidden = 0}};
  const auto small_integers = [&c](Inputs& inputs) {
    Random random(c.seed);
    for_each_index(inputs.v.shape(), [&](const Dims& at) {
      inputs.v.set(at, static_cast<double>(random.integer(-1, 1)));
    });
  };
  Inputs inputs = make_inputs(c);
  small_integers(inputs);
  inputs.mask.set({0, 2}, 0);
  const Outputs expected = run(inputs, c);
  for (const double hidden : {std::nan(""), 0x1p-120}) {
    for (std::int64_t d = 0; d < 64; ++d) inputs.v.set({0, 0, 2, d}, hidden);
    CHECK(bit_difference(run(inputs, c), expected) == "");
  }
  c = {.q_len = 600,
       .kv_len = 600,
       .head_dim = 64,
       .q_type = DType::bf16,
       .kv_type = DType::bf16,
       .options = {.causal = Causal{}, .window = Window{6, {}}}};
  inputs = make_inputs(c);
  small_integers(inputs);
  inputs.v.set({0, 0, 595, 3}, 0x1p-120);
  c.execution.num_threads = 1;
  const Outputs alone = run(inputs, c);
  for (const int num_threads : {2, 7}) {
    c.execution.num_threads = num_threads;
    CHECK(bit_difference(run(inputs, c), alone) == "");
  }
}

TEST_CASE("small scales of i8 count, beside bf16 queries as well") {
  for (Case c : shapes()) {
    c.kv_type = DType::i8;
    for (const DType q_type : {DType::f32, DType::bf16}) {
      c.q_type = q_type;
      for (const double scale : {1e-33, 1e-37, 1e-39}) {
        Inputs inputs = make_inputs(c);
        for_each_index(inputs.v_scales.shape(),
                       [&](const Dims& at) { inputs.v_scales.set(at, scale); });
        // Probabilities may be rounded to bf16, by 2^-9 each; queries are the same for both.
        check_values(c, inputs, 2 * 127 * scale * 0x1p-9);
      }
    }
  }
}

TEST_CASE("a sink of +inf gives NaN, as a score of +inf does; one of -inf is no sink") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const Normalizer& normalizer : normalizers) {
    Case c = with(shapes()[0], normalizer);
    c.sinks = true;
    Inputs inputs = make_inputs(c);
    inputs.sinks.set({0}, infinity);
    inputs.sinks.set({1}, -infinity);
    const std::vector<double> expected = reference_of(inputs, c);
    CHECK(std::isnan(expected[0]));
    for (const Isa isa : available_isas())
      CHECK(difference(run(inputs, c, isa).out.values(), expected, 0x1p-7) == "");
  }
  for (Case c : shapes()) {
    c.sinks = true;
    Inputs inputs = make_inputs(c);
    inputs.sinks.set({0}, infinity);
    inputs.sinks.set({1}, -infinity);
    Outputs expected = make_outputs(c);
    attention_reference(bind(inputs, expected), c.options);
    for (const Isa isa : available_isas()) {
      const Outputs got = run(inputs, c, isa);
      CHECK(difference(got.out.values(), expected.out.values(), 0x1p-7) == "");
      CHECK(difference(got.lse.values(), expected.lse.values(), 0x1p-7) == "");
    }
    CHECK(std::isnan(expected.lse.values()[0]));
  }
}

TEST_CASE("merging parts near the greatest float stays within them") {
  const auto part = static_cast<float>(greatest);
  for (int n = 0; n < 1000; ++n) {
    float out_a = part, out_b = part, out = 0;
    float lse_a = 0, lse_b = static_cast<float>(n) * -0.01f, lse = 0;
    merge({{&out_a, {1}}, {&lse_a, {}}}, {{&out_b, {1}}, {&lse_b, {}}}, {{&out, {1}}, {&lse, {}}});
    CHECK(out == part);
  }
}
