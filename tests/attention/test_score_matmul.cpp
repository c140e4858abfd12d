// Scores of whole tiles by oneDNN's matmul instead of the built-in micro-kernel.
#include <doctest/doctest.h>

#include <string>

#include "support/check.hpp"
#include "support/poison.hpp"

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

TEST_CASE("The description of a plan names the matmul") {
  const Inputs inputs = make_inputs(usual());
  Outputs outputs = make_outputs(usual());
  const auto description = [&](ScoreMatmul whose) {
    return AttentionPlan(bind(inputs, outputs), {.score_matmul = whose}).description();
  };
  CHECK(description(ScoreMatmul::onednn).find("oneDNN") != std::string::npos);
  CHECK(description(ScoreMatmul::built_in).find("oneDNN") == std::string::npos);
}
