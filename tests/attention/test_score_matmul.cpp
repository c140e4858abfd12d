// Whole tiles that oneDNN multiplies instead of the built-in micro-kernel: with every option, of
// every type and in every form.
#include <attn/attention_backward.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>

#include "support/backward_check.hpp"
#include "support/check.hpp"
#include "support/poison.hpp"
#include "support/random_backward_case.hpp"
#include "support/random_case.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// More than one block of rows and of keys, and a remainder of both.
Case usual() {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 130,
          .kv_len = 600,
          .head_dim = 40,
          .options = {.score_matmul = ScoreMatmul::onednn}};
}

template <class F>
void for_each_case(F&& f) {
  f(usual());
  Case c = usual();
  c.options.causal = Causal::bottom_right();
  f(c);
  c.options.window = Window{250, {}};
  c.kv_lens = {600, 300};
  f(c);
  c = usual();
  c.mask = {.shape = {c.q_len, c.kv_len}};
  c.q_type = c.kv_type = c.out_type = DType::bf16;
  f(c);
  // Dense masks over keys of which oneDNN multiplies some and the micro-kernel the rest.
  for (const DType mask : {DType::f32, DType::boolean}) {
    c = usual();
    c.options.causal = Causal::bottom_right();
    c.kv_lens = {600, 431};
    c.mask = {.dtype = mask, .shape = {c.q_len, c.kv_len}, .hidden = 0.4};
    f(c);
    c.mask = {.dtype = mask, .shape = {c.q_len, 300}, .hidden = 0.02};
    c.options.mask_keys = MaskKeys::last;
    f(c);
  }
  c = usual();
  c.options.mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = (run.key_begin + n) % 7 != 0;
  };
  c.options.causal = Causal::top_left();
  f(c);
  c = usual();
  c.alibi = c.sinks = true;
  c.options.softcap = 5.f;
  c.options.softmax_scale = -0.2f;
  c.layout = Layout::strided_dim;
  f(c);
}

}  // namespace

TEST_CASE("oneDNN's scores are within tolerance, over features and sizes") {
  for_each_case([](const Case& c) { check_case(c); });
  for (const std::int64_t q_len : {1, 5, 96, 97, 192}) {
    for (const std::int64_t kv_len : {1, 64, 511, 512, 513}) {
      for (const std::int64_t head_dim : {1, 13, 64}) {
        check_case({.q_len = q_len,
                    .kv_len = kv_len,
                    .head_dim = head_dim,
                    .options = {.score_matmul = ScoreMatmul::onednn}});
      }
    }
  }
}

TEST_CASE("oneDNN and the built-in micro-kernel agree") {
  for_each_case([](Case c) {
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c);
    const Expected expected = expected_of(c, inputs);
    c.options.score_matmul = ScoreMatmul::built_in;
    const Outputs built_in = run(inputs, c);
    c.options.score_matmul = ScoreMatmul::onednn;
    const Outputs onednn = run(inputs, c);
    CHECK(difference(onednn.out.values(), built_in.out.values(), 2 * expected.out_tolerance) == "");
    CHECK(difference(onednn.lse.values(), built_in.lse.values(), 2 * expected.lse_tolerance) == "");
  });
}

TEST_CASE("Bits do not depend on threads or batch either") {
  for_each_case([](Case c) {
    INFO(repeat_line(c));
    const Inputs inputs = make_inputs(c);
    c.execution.num_threads = 1;
    const Outputs expected = run(inputs, c);
    for (const int num_threads : {2, 3, 7}) {
      c.execution.num_threads = num_threads;
      CHECK(bit_difference(run(inputs, c), expected) == "");
    }
  });
}

TEST_CASE("Hidden keys do not reach the result") {
  Case c = usual();
  c.options.causal = Causal::top_left();
  const Outputs expected = run(make_inputs(c), c);
  for (const std::uint64_t bits : poisons(c.kv_type)) {
    Inputs poisoned = make_inputs(c);
    for (StridedTensor* kv : {&poisoned.k, &poisoned.v}) {
      for_each_index(kv->shape(), [&](const Dims& at) {
        if (at[2] >= c.q_len) kv->set_bits(at, bits);
      });
    }
    CHECK(bit_difference(run(poisoned, c), expected) == "");
  }
}

TEST_CASE("Random combinations of all options, forward and backward") {
  for (const std::uint64_t seed : seeds(1, 30)) {
    BackwardCase c = random_backward_case(seed);
    Random random(seed);
    if (random.chance(0.5)) c.call.q_len = random.integer(90, 300);
    if (random.chance(0.5)) c.call.kv_len = random.integer(100, 700);
    c.call.kv_lens.clear();
    c.call.mask.reset();
    c.call.options.block_mask.reset();
    c.call.options.score_matmul = ScoreMatmul::onednn;
    check_case(c.call);
    check_backward(c);
  }
}

TEST_CASE("Every normalizer, with values that are not finite") {
  for (const Normalizer& normalizer : {Normalizer::softmax(), Normalizer::sigmoid(),
                                       Normalizer::sparsemax(), Normalizer::entmax(1.3f)}) {
    Case c = usual();
    c.q_len = 40;
    c.kv_len = 150;
    c.options.normalizer = normalizer;
    c.lse = normalizer == Normalizer::softmax();
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      c.q_type = c.kv_type = dtype;
      INFO(repeat_line(c));
      check_case(c);
      Inputs inputs = make_inputs(c);
      inputs.v.set({0, 1, 70, 3}, std::numeric_limits<double>::quiet_NaN());
      inputs.v.set({1, 0, 140, 39}, std::numeric_limits<double>::infinity());
      const Expected expected = expected_of(c, inputs);
      for (const Isa isa : available_isas()) CHECK(difference(run(inputs, c, isa), expected) == "");
    }
  }
}

TEST_CASE("Keys in every form give the bits of a call alone") {
  for (const KeyForm form : key_forms) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      const Sequences s{.common = {.num_q_heads = 4,
                                   .num_kv_heads = 2,
                                   .head_dim = 40,
                                   .v_head_dim = 72,
                                   .q_type = dtype == DType::bf16 ? dtype : DType::f32,
                                   .kv_type = dtype,
                                   .options = {.causal = Causal::bottom_right(),
                                               .score_matmul = ScoreMatmul::onednn}},
                        .q_lens = {1, 130, 0, 60},
                        .kv_lens = {1100, 600, 20, 300},
                        .key_form = form};
      INFO(to_string(s));
      Together together(s);
      for (const int num_threads : {1, 3}) {
        attention(together.tensors(), together.options(), {.num_threads = num_threads});
        for (std::int64_t b = 0; b < s.count(); ++b) {
          const Alone& alone = together.alone()[static_cast<std::size_t>(b)];
          CHECK(bit_difference(together.outputs(b), run(alone.inputs, alone.c)) == "");
        }
      }
    }
  }
}

TEST_CASE("Gradients: the bits do not depend on threads, and hidden keys do not reach them") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    BackwardCase c{.call = usual()};
    c.call.q_type = c.call.kv_type = c.call.out_type = c.dout_type = dtype;
    c.call.options.causal = Causal::bottom_right();
    c.call.kv_lens = {600, 450};
    const Inputs inputs = make_inputs(c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    const Outputs forward = run_forward(c, inputs);
    c.call.execution.num_threads = 1;
    const GradientOutputs one = run_backward(c, inputs, gradients, forward);
    c.call.execution.num_threads = 5;
    CHECK(bit_difference(run_backward(c, inputs, gradients, forward), one) == "");
    for (const std::uint64_t bits : poisons(dtype)) {
      Inputs poisoned = make_inputs(c.call);
      for (StridedTensor* kv : {&poisoned.k, &poisoned.v}) {
        for_each_index(kv->shape(), [&](const Dims& at) {
          if (at[0] == 1 && at[2] >= 450) kv->set_bits(at, bits);
        });
      }
      CHECK(bit_difference(run_backward(c, poisoned, gradients, forward), one) == "");
    }
  }
}

TEST_CASE("The description of a plan names the matmul") {
  const Inputs inputs = make_inputs(usual());
  Outputs outputs = make_outputs(usual());
  const auto description = [&](ScoreMatmul whose) {
    return AttentionPlan(bind(inputs, outputs), {.score_matmul = whose}).description();
  };
  CHECK(description(ScoreMatmul::onednn).find("oneDNN") != std::string::npos);
  CHECK(description(ScoreMatmul::built_in).find("oneDNN") == std::string::npos);
}
