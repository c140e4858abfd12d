// Tolerances of gradients have room for what rounding does to a right program, and none for a wrong
// one.
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/backward_check.hpp"
#include "support/random_backward_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::vector<Normalizer> normalizers() {
  return {Normalizer::softmax(),    Normalizer::sigmoid(),    Normalizer::sparsemax(),
          Normalizer::entmax(1.2f), Normalizer::entmax(1.5f), Normalizer::entmax(2.5f)};
}

/// Few rows, so that one run shows few of the errors that rounding can make, and scores that are
/// sums of many products.
BackwardCase small_backward_case(std::uint64_t seed, const Normalizer& normalizer) {
  Random random(seed);
  BackwardCase c;
  c.call.seed = seed;
  c.call.num_q_heads = random.pick<std::int64_t>({1, 2});
  c.call.q_len = random.pick<std::int64_t>({1, 2, 5});
  c.call.kv_len = random.pick<std::int64_t>({1, 2, 3, 7, 40});
  c.call.head_dim = random.pick<std::int64_t>({8, 64, 128});
  c.call.v_head_dim = random.pick<std::int64_t>({1, 8, 33});
  c.call.options.softmax_scale = random.pick<float>({0.125f, 1.f, 3.f});
  c.call.options.normalizer = normalizer;
  if (random.chance(0.3)) c.call.options.softcap = 5.f;
  c.call.alibi = random.chance(0.3);
  c.call.sinks = random.chance(0.3) && normalizer.kind() != Normalizer::Kind::sigmoid;
  // With more than one row, the first sees nothing.
  if (random.chance(0.3)) c.call.options.causal = Causal::with_offset(-1);
  if (random.chance(0.3)) c.call.mask = {.dtype = DType::f32, .shape = {1, c.call.kv_len}};
  const DType dtype = random.pick({DType::f32, DType::f32, DType::bf16, DType::f16});
  c.call.q_type = c.call.kv_type = c.dout_type = dtype;
  c.call.out_type = random.pick({DType::f32, dtype});
  return c;
}

/// O and lse without any error but that of f32.
Outputs exact_forward(const BackwardCase& c, const Inputs& inputs) {
  if (c.call.options.normalizer != Normalizer::softmax()) return {};
  Outputs outputs = make_outputs(c.call);
  attention_reference(bind(inputs, outputs), c.call.options);
  return outputs;
}

}  // namespace

TEST_CASE("Small calls of every normalizer are within their tolerance") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    for (const Normalizer& normalizer : normalizers())
      check_backward(small_backward_case(seed, normalizer));
  }
}

TEST_CASE("A plain float program errs by no more than rounding may by derivation") {
  double largest_share = 0;
  for (const std::uint64_t seed : seeds(1, 60)) {
    for (const Normalizer& normalizer : normalizers()) {
      BackwardCase c = small_backward_case(seed, normalizer);
      c.call.out_type = DType::f32;
      INFO(repeat_line(c));
      const Inputs inputs = make_inputs(c.call);
      const ExpectedGradients expected =
          expected_gradients(c, inputs, make_gradient_inputs(c), exact_forward(c, inputs));
      for (std::size_t n = 0; n < std::size(all_gradients); ++n) {
        CAPTURE(n);
        CHECK(expected.plain_error[n] <= expected.spread[n]);
        if (expected.spread[n] > 0)
          largest_share = std::max(largest_share, expected.plain_error[n] / expected.spread[n]);
      }
    }
  }
  CHECK(largest_share > 0.25);  // The derivation is not generous.
}

TEST_CASE("Gradients that lack a pair of query and key are outside") {
  for (const Normalizer& normalizer : normalizers()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      BackwardCase c{
          .call = {.num_q_heads = 2,
                   .q_len = 20,
                   .kv_len = 30,
                   .head_dim = 16,
                   .q_type = dtype,
                   .kv_type = dtype,
                   .options = {.normalizer = normalizer},
                   .mask = DenseMask{.dtype = DType::boolean, .shape = {20, 30}, .hidden = 0}},
          .dout_type = dtype};
      INFO(repeat_line(c));
      Inputs inputs = make_inputs(c.call);
      // All keys have the same probability in one row, which then has the pair with any normalizer.
      for (std::int64_t d = 0; d < 16; ++d) inputs.q.set({0, 1, 10, d}, 0);
      const GradientInputs gradients = make_gradient_inputs(c);
      const ExpectedGradients expected =
          expected_gradients(c, inputs, gradients, run_forward(c, inputs));
      inputs.mask.set({10, 7}, 0);
      const GradientOutputs wrong =
          run_backward_reference(with_gradients_in_double(c), inputs, gradients);
      CHECK(difference(wrong, expected) != "");
    }
  }
}
