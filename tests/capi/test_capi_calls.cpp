// The call and its gradients by the C interface: the bits of the C++ library.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <utility>

#include "capi/compare.hpp"
#include "support/c_calls.hpp"
#include "support/seeds.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("The version is that of the library") {
  CHECK(std::string(attn_version_string()) == build_info().version);
  CHECK(attn_version() == ATTN_VERSION);
}

TEST_CASE("Random calls and their gradients have the bits of the C++ library") {
  for (const std::uint64_t seed : seeds(1, 150)) {
    const BackwardCase c = case_of(seed);
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    const Outputs wanted = run(inputs, c.call);
    Outputs got = make_outputs(c.call);
    const CCall call(bind(inputs, got), c.call.options, c.call.execution);
    REQUIRE_OK(
        attn_attention(call.arguments.data(), call.arguments.size(), call.options, call.execution));
    check_same(got, wanted);

    const GradientInputs gradients = make_gradient_inputs(c);
    GradientOutputs all_wanted = make_gradient_outputs(c), all_got = make_gradient_outputs(c);
    attention_backward(bind(inputs, got), bind(gradients, all_wanted), c.call.options,
                       c.call.execution);
    const CCall backward(bind(inputs, got), bind(gradients, all_got), c.call.options,
                         c.call.execution);
    REQUIRE_OK(attn_attention_backward(backward.arguments.data(), backward.arguments.size(),
                                       backward.options, backward.execution));
    CHECK(bit_difference(all_got, all_wanted) == "");
  }
}

TEST_CASE("The textbook has the bits of the C++ library") {
  for (const std::uint64_t seed : seeds(1, 10)) {
    const BackwardCase c = with_gradients_in_double(case_of(seed));
    CAPTURE(repeat_command(seed));
    const Inputs inputs = make_inputs(c.call);
    Outputs wanted = make_outputs(c.call), got = make_outputs(c.call);
    attention_reference(bind(inputs, wanted), c.call.options);
    const CCall call(bind(inputs, got), c.call.options, {});
    REQUIRE_OK(
        attn_attention_reference(call.arguments.data(), call.arguments.size(), call.options, NULL));
    check_same(got, wanted);

    const GradientInputs gradients = make_gradient_inputs(c);
    const GradientOutputs all_wanted = run_backward_reference(c, inputs, gradients);
    GradientOutputs all_got = make_gradient_outputs(c);
    const CCall backward(bind(inputs, got), bind(gradients, all_got), c.call.options, {});
    REQUIRE_OK(attn_attention_backward_reference(
        backward.arguments.data(), backward.arguments.size(), backward.options, NULL));
    CHECK(bit_difference(all_got, all_wanted) == "");
  }
}

TEST_CASE("Sequences of different lengths, with keys in every form") {
  for (const std::uint64_t seed : seeds(1, 24)) {
    CAPTURE(repeat_command(seed));
    Random random(seed);
    Sequences s{.common = {.num_q_heads = 4, .num_kv_heads = 2, .seed = seed}};
    const bool with_scales = random.chance(0.3);
    if (with_scales) s.common.kv_type = DType::i8;
    s.common.options.causal = Causal::bottom_right();
    s.key_form = std::data(key_forms)[seed % std::size(key_forms)];
    for (int n = 0; n < 3; ++n) {
      s.q_lens.push_back(random.integer(0, 20));
      s.kv_lens.push_back(random.integer(0, 60));
    }
    Together wanted(s), got(s);
    attention(wanted.tensors(), wanted.options());
    const CCall call(got.tensors(), got.options(), {});
    REQUIRE_OK(attn_attention(call.arguments.data(), call.arguments.size(), call.options, NULL));
    for (std::int64_t n = 0; n < s.count(); ++n) check_same(got.outputs(n), wanted.outputs(n));
  }
}

TEST_CASE("Options can be set back") {
  SmallCall small;
  const CArguments arguments = small.arguments();
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  REQUIRE_OK(attn_options_set_causal(options, 1));
  REQUIRE_OK(attn_options_set_causal(options, 0));
  REQUIRE_OK(attn_options_set_q_position(options, 3));
  REQUIRE_OK(attn_options_set_q_position(options, ATTN_BOTTOM_RIGHT));
  REQUIRE_OK(attn_options_set_window(options, 2, 2));
  REQUIRE_OK(attn_options_set_window(options, ATTN_UNLIMITED, ATTN_UNLIMITED));
  REQUIRE_OK(attn_options_set_entmax(options, 2));
  REQUIRE_OK(attn_options_set_softmax(options));
  REQUIRE_OK(attn_options_set_mask_keys(options, ATTN_MASK_KEYS_LAST));
  REQUIRE_OK(attn_options_set_mask_keys(options, ATTN_MASK_KEYS_FIRST));
  REQUIRE_OK(attn_options_set_score_matmul(options, ATTN_SCORE_MATMUL_AUTOMATIC));
  const attn_score_mod score_mod = [](void*, const attn_key_run*, float*) {
    return std::int32_t{1};
  };
  REQUIRE_OK(attn_options_set_score_mod(options, score_mod, nullptr));
  REQUIRE_OK(attn_options_set_score_mod(options, nullptr, nullptr));
  REQUIRE_OK(attn_attention(arguments.data(), arguments.size(), options, NULL));
  check_same(small.outputs, small.wanted);
}

TEST_CASE("Who multiplies the scores") {
  const Case c{.num_q_heads = 2, .q_len = 100, .kv_len = 300, .head_dim = 32};
  const Inputs inputs = make_inputs(c);
  for (const auto& [number, matmul] :
       {std::pair{ATTN_SCORE_MATMUL_AUTOMATIC, ScoreMatmul::automatic},
        std::pair{ATTN_SCORE_MATMUL_BUILT_IN, ScoreMatmul::built_in},
        std::pair{ATTN_SCORE_MATMUL_ONEDNN, ScoreMatmul::onednn}}) {
    Outputs wanted = make_outputs(c), got = make_outputs(c);
    COptions options;
    REQUIRE_OK(attn_options_create(options.out()));
    REQUIRE_OK(attn_options_set_score_matmul(options, number));
    const CArguments arguments(bind(inputs, got));
    const attn_status status = attn_attention(arguments.data(), arguments.size(), options, NULL);
    try {
      attention(bind(inputs, wanted), {.score_matmul = matmul});
      CHECK(status == ATTN_OK);
    } catch (const Error& error) {  // oneDNN cannot multiply, or this is a build without it
      CHECK(status == ATTN_UNSUPPORTED);
      CHECK(std::string(attn_last_error()) == error.what());
    }
    check_same(got, wanted);
  }
}

TEST_CASE("A function of the user ends the call") {
  SmallCall small;
  const CArguments arguments = small.arguments();
  COptions options;
  REQUIRE_OK(attn_options_create(options.out()));
  const attn_mask_mod fails = [](void* user, const attn_key_run*, std::uint8_t*) {
    return *static_cast<std::int32_t*>(user);
  };
  std::int32_t returned = -7;
  REQUIRE_OK(attn_options_set_mask_mod(options, fails, &returned));
  CHECK(attn_attention(arguments.data(), arguments.size(), options, NULL) == ATTN_CALLBACK_FAILED);
  CHECK(std::string(attn_last_error()) == "mask_mod returned -7");
}
