// Sigmoid, sparsemax and entmax instead of softmax, with every option, against the reference.
// Random combinations are in random_cases and ragged, poisoned keys are in hidden_keys.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/masks.hpp"
#include "support/normalizer_case.hpp"
#include "support/onednn.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_with_each(const std::function<void(Case&)>& change) {
  for (const Normalizer& normalizer : gentle()) {
    Case c = usual(normalizer);
    change(c);
    if (is_sigmoid(normalizer)) c.sinks = false;
    check_case(c);
  }
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code() == ErrorCode::invalid_argument ? error.what() : "another error";
  }
  return "no error";
}

}  // namespace

TEST_CASE("Scale, softcap, ALiBi and score_mod") {
  check_with_each([](Case&) {});
  check_with_each([](Case& c) { c.options.softmax_scale = 0.9f; });
  check_with_each([](Case& c) { c.options.softmax_scale = -0.3f; });
  check_with_each([](Case& c) { c.options.softcap = 1.5f; });
  check_with_each([](Case& c) { c.alibi = true; });
  check_with_each([](Case& c) {
    c.options.score_mod = [](const KeyRun& run, float* scores) {
      for (std::int64_t n = 0; n < run.count; ++n)
        scores[n] += static_cast<float>((run.key_begin + n + run.q_index + run.q_head) % 3);
    };
  });
}

TEST_CASE("Causal masks, windows and lengths") {
  for (const auto& causal : causal_masks(23, 90))
    check_with_each([&](Case& c) { c.options.causal = causal; });
  for (const auto& window : windows()) check_with_each([&](Case& c) { c.options.window = window; });
  check_with_each([](Case& c) { c.kv_lens = {7, 0}; });
  check_with_each([](Case& c) {
    c.kv_lens = {90, 31};
    c.options.causal = Causal::bottom_right();
    c.options.window = Window{12, {}};
  });
}

TEST_CASE("Dense masks and mask_mod") {
  for (const DType dtype : {DType::boolean, DType::f32, DType::bf16}) {
    for (const Dims& shape : {Dims{23, 90}, Dims{4, 1, 90}, Dims{2, 1, 23, 61}, Dims{23, 1}}) {
      for (const double hidden : {0.3, 0.97}) {
        check_with_each(
            [&](Case& c) { c.mask = {.dtype = dtype, .shape = shape, .hidden = hidden}; });
      }
    }
  }
  check_with_each([](Case& c) {
    c.options.causal = Causal::bottom_right();
    c.options.mask_mod = [](const KeyRun& run, bool* visible) {
      for (std::int64_t n = 0; n < run.count; ++n)
        visible[n] = (run.key_begin + n + run.q_index) % 3 == 0;
    };
  });
}

TEST_CASE("Types, layouts, one query, groups") {
  for (const DType dtype : {DType::bf16, DType::f16})
    check_with_each([&](Case& c) { c.q_type = c.kv_type = c.out_type = dtype; });
  check_with_each([](Case& c) { c.kv_type = DType::i8; });
  for (const Layout layout :
       {Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed}) {
    check_with_each([&](Case& c) { c.layout = layout; });
  }
  check_with_each([](Case& c) { c.q_len = 1; });
  check_with_each([](Case& c) {
    c.num_q_heads = 7;
    c.num_kv_heads = 1;
    c.q_len = 5;
    c.options.causal = Causal::bottom_right();
  });
}

TEST_CASE("Several blocks of keys and of rows") {
  const auto long_rows = [](Case& c) {
    c.batch = 1;
    c.num_q_heads = 3;
    c.num_kv_heads = 3;
    c.q_len = 130;
    c.kv_len = 1100;
    c.head_dim = 40;
    c.options.softmax_scale = 0.4f;  // sparse: long ranges of keys have probability 0
  };
  check_with_each(long_rows);
  check_with_each([&](Case& c) {
    long_rows(c);
    c.options.causal = Causal::bottom_right();
    c.options.window = Window{700, {}};
    c.mask = {.shape = {130, 1100}};
  });
  check_with_each([&](Case& c) {
    long_rows(c);
    c.head_dim = 300;
    c.v_head_dim = 210;
    c.options.softmax_scale = 0.1f;
  });
}

TEST_CASE("A sink is one more score that takes its share") {
  for (const float alpha : {1.25f, 1.5f, 2.f}) {
    Case c = usual(Normalizer::entmax(alpha));
    c.sinks = true;
    check_case(c);
    c.options.causal = Causal::with_offset(-4);
    check_case(c);
    // A sink far above all scores leaves probability 0 for every key.
    Inputs inputs = make_inputs(c);
    inputs.sinks.assign({100, 100, 100, 100});
    for (const Isa isa : available_isas()) {
      const std::vector<double> out = run(inputs, c, isa).out.values();
      CHECK(std::all_of(out.begin(), out.end(), [](double value) { return value == 0; }));
    }
    // A sink of NaN makes NaN, except in rows that see no key.
    inputs.sinks.assign(std::vector<double>(4, std::nan("")));
    Case blind = c;
    blind.mask = {.shape = {23, 1}, .hidden = 0.5};
    Inputs undefined = make_inputs(blind);
    undefined.sinks = inputs.sinks;
    check_inputs(blind, undefined);
    // A sink of -inf is the same as no sink.
    inputs.sinks.assign(std::vector<double>(4, -HUGE_VAL));
    Case without = c;
    without.sinks = false;
    for (const Isa isa : available_isas())
      CHECK(bit_difference(run(inputs, c, isa), run(make_inputs(without), without, isa)) == "");
  }
}

TEST_CASE("The unfused baseline: masks, sinks and values that are not finite") {
  for (const Normalizer& normalizer : gentle()) {
    Case c = usual(normalizer);
    c.options.causal = Causal::bottom_right();
    c.mask = {.shape = {c.q_len, c.kv_len}};
    c.sinks = !is_sigmoid(normalizer);
    c.kv_lens = {90, 50};
    c.layout = Layout::padded;
    for (const double value : {1.0, HUGE_VAL, std::nan("")}) {
      Inputs inputs = make_inputs(c);
      for (const std::int64_t key : {3, 40, 89}) inputs.v.set({0, 1, key, key % 20}, value);
      const Expected expected = expected_of(c, inputs);
      Outputs outputs = make_outputs(c);
      attention_unfused(bind(inputs, outputs), c.options, c.execution);
      CHECK(difference(outputs, expected) == "");
      for (const Isa isa : available_isas()) CHECK(difference(run(inputs, c, isa), expected) == "");
    }
  }
}

TEST_CASE("Scratch grows with kv_len, and by less than the packed keys of one head") {
  const auto size_of_plan = [](const Normalizer& normalizer, std::int64_t q_len,
                               std::int64_t kv_len) {
    const Dims q{1, 2, q_len, 64}, k{1, 2, kv_len, 64};
    return AttentionPlan({.q = {nullptr, DType::f32, q},
                          .k = {nullptr, DType::f32, k},
                          .v = {nullptr, DType::f32, k},
                          .out = {nullptr, DType::f32, q}},
                         {.normalizer = normalizer}, {.num_threads = 1})
        .workspace_size();
  };
  for (const Normalizer& normalizer : gentle()) {
    // Blocks of rows are of about the same size whatever q_len is.
    const std::size_t shorter = size_of_plan(normalizer, 1024, 4096);
    CHECK(size_of_plan(normalizer, 4096, 4096) < shorter + shorter / 100);
    CHECK(size_of_plan(normalizer, 1024, 4096) <
          size_of_plan({}, 1024, 4096) + 4096 * 64 * sizeof(float));
  }
}

TEST_CASE("What does not fit is refused before anything is written") {
  struct Wrong {
    Normalizer normalizer;
    bool lse, sinks;
    std::string fault;
  };
  const float nan = std::nanf("");
  const Wrong all[] = {
      {Normalizer::sigmoid(), true, false, "lse is given with sigmoid"},
      {Normalizer::sparsemax(), true, false, "lse is given with sparsemax"},
      {Normalizer::entmax(1.5f), true, false, "lse is given with entmax 1.5"},
      {Normalizer::sigmoid(-1.f), false, true, "sinks is given with sigmoid with bias -1"},
      {Normalizer::entmax(0.5f), false, false, "alpha is 0.5"},
      {Normalizer::entmax(-1), false, false, "alpha is -1"},
      {Normalizer::entmax(HUGE_VALF), false, false, "alpha is inf"},
      {Normalizer::entmax(nan), false, false, "alpha is nan"},
      {Normalizer::sigmoid(HUGE_VALF), false, false, "bias is inf"},
      {Normalizer::sigmoid(nan), false, false, "bias is nan"},
  };
  for (const Wrong& wrong : all) {
    Case c = usual(wrong.normalizer);
    c.lse = wrong.lse;
    c.sinks = wrong.sinks;
    const Inputs inputs = make_inputs(c);
    Outputs outputs = make_outputs(c);
    const AttentionTensors tensors = bind(inputs, outputs);
    Tensor scores(DType::f32, {2, 4, 23, 90});
    const std::function<void()> calls[] = {
        [&] { attention(tensors, c.options, c.execution); },
        [&] { AttentionPlan(tensors, c.options, c.execution); },
        [&] { attention_reference(tensors, c.options, c.execution); },
        [&] { attention_unfused(tensors, c.options, c.execution); },
        [&] { reference_scores(tensors, c.options, ScoreStage::weights, scores.view()); }};
    for (const auto& call : calls) CHECK(error_of(call).find(wrong.fault) != std::string::npos);
    CHECK(outputs.out.untouched());
    CHECK(outputs.lse.untouched());
  }
}

TEST_CASE("Normalizers as values, in words, and in a plan's description") {
  CHECK(Normalizer() == Normalizer::softmax());
  CHECK(Normalizer::entmax(2) == Normalizer::sparsemax());
  CHECK(Normalizer::entmax(1.5f) != Normalizer::sparsemax());
  CHECK(Normalizer::sigmoid() != Normalizer::sigmoid(0));
  CHECK(Normalizer::softmax().to_string() == "softmax");
  CHECK(Normalizer::sigmoid().to_string() == "sigmoid");
  CHECK(Normalizer::sigmoid(-3).to_string() == "sigmoid with bias -3");
  CHECK(Normalizer::sparsemax().to_string() == "sparsemax");
  CHECK(Normalizer::entmax(1.5f).to_string() == "entmax 1.5");
  const Case c = usual(Normalizer::entmax(1.5f));
  Outputs outputs = make_outputs(c);
  const Inputs inputs = make_inputs(c);
  CHECK(AttentionPlan(bind(inputs, outputs), c.options, c.execution)
            .description()
            .find("entmax 1.5") != std::string::npos);
  CHECK(AttentionPlan(bind(inputs, outputs)).description().find("entmax") == std::string::npos);
}
