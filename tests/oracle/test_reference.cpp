// The reference against results computed by hand.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "support/reference_examples.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void fill(Tensor& tensor, std::initializer_list<double> values) {
  std::copy(values.begin(), values.end(), tensor.data<double>());
}

double out_at(const Example& example, std::int64_t index) {
  return example.out.data<double>()[index];
}
double lse_at(const Example& example, std::int64_t index) {
  return example.lse.data<float>()[index];
}

void check_values(const std::vector<double>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t n = 0; n < got.size(); ++n) {
    CAPTURE(n);
    if (std::isinf(wanted[n])) {
      CHECK(got[n] == wanted[n]);
    } else {
      CHECK(got[n] == doctest::Approx(wanted[n]).epsilon(1e-12));
    }
  }
}

/// The keys that rows see, drawn as in mask.hpp; blanks separate rows. q and k are 0, so that all
/// visible keys have the same probability.
std::string drawn(const Example& example) {
  const std::vector<double> weights = example.scores(ScoreStage::weights);
  std::string drawing;
  for (std::size_t n = 0; n < weights.size(); ++n) {
    if (n > 0 && n % static_cast<std::size_t>(example.shape.kv_len) == 0) drawing += ' ';
    drawing += weights[n] > 0 ? '1' : '0';
  }
  return drawing;
}

Example rows_and_keys(std::int64_t q_len, std::int64_t kv_len) {
  return Example({.q_len = q_len, .kv_len = kv_len});
}

/// One query with q = 1 and scale 1: key j's score is k[j] itself.
Example with_scores(std::initializer_list<double> scores, std::initializer_list<double> values) {
  Example example({.kv_len = static_cast<std::int64_t>(scores.size())});
  example.options.softmax_scale = 1.f;
  fill(example.q, {1});
  fill(example.k, scores);
  fill(example.v, values);
  return example;
}

}  // namespace

TEST_CASE("Two keys with scores 0 and log 3 have probabilities of a quarter and three quarters") {
  Example example = with_scores({0, std::log(3)}, {4, 8});
  example.run();
  CHECK(out_at(example, 0) == doctest::Approx(7).epsilon(1e-14));
  CHECK(lse_at(example, 0) == doctest::Approx(std::log(4)).epsilon(1e-7));
}

TEST_CASE("The scale defaults to one over the root of head_dim") {
  Example example({.head_dim = 16});
  std::fill_n(example.q.data<double>(), 16, 1.0);
  std::fill_n(example.k.data<double>(), 16, 2.0);
  check_values(example.scores(ScoreStage::scaled), {8});
}

TEST_CASE("Causal masks are drawn as in the header") {
  Example example = rows_and_keys(2, 5);
  example.options.causal = Causal::bottom_right();
  CHECK(drawn(example) == "11110 11111");
  example.options.causal = Causal::top_left();
  CHECK(drawn(example) == "10000 11000");
  example.options.causal = Causal::with_offset(-1);
  CHECK(drawn(example) == "00000 10000");

  Example tall = rows_and_keys(5, 2);
  tall.options.causal = Causal::bottom_right();
  CHECK(drawn(tall) == "00 00 00 10 11");
}

TEST_CASE("Windows are inclusive distances from the position") {
  Example example = rows_and_keys(4, 4);
  example.options.window = Window{1, 0};
  CHECK(drawn(example) == "1000 1100 0110 0011");
  example.options.window = Window{0, 0};
  CHECK(drawn(example) == "1000 0100 0010 0001");
  example.options.window = Window{std::nullopt, 1};
  CHECK(drawn(example) == "1100 1110 1111 1111");
  example.options.window = Window{1, std::nullopt};
  CHECK(drawn(example) == "1111 1111 0111 0011");
  example.options.causal = Causal::top_left();
  CHECK(drawn(example) == "1000 1100 0110 0011");

  Example wide = rows_and_keys(2, 5);
  wide.options.window = Window{1, 0};
  CHECK(drawn(wide) == "00110 00011");
  wide.options.causal = Causal::top_left();
  CHECK(drawn(wide) == "10000 11000");
}

TEST_CASE("kv_lens hide keys and move the bottom-right corner") {
  Example example({.batch = 2, .q_len = 2, .kv_len = 4});
  const std::vector<std::int64_t> lengths = {3, 0};
  example.tensors.kv_lens = {lengths.data(), {2}};
  CHECK(drawn(example) == "1110 1110 0000 0000");
  example.options.causal = Causal::bottom_right();
  CHECK(drawn(example) == "1100 1110 0000 0000");
  example.options.window = Window{0, 0};
  CHECK(drawn(example) == "0100 0010 0000 0000");
  example.options.window.reset();
  example.options.causal = Causal::top_left();
  CHECK(drawn(example) == "1000 1100 0000 0000");
}

TEST_CASE("Dense masks hide where they are false or -inf, and after their end") {
  Example example = rows_and_keys(2, 3);
  const bool boolean[] = {true, false, true, false, false, true};
  example.tensors.mask = {boolean, {2, 3}};
  CHECK(drawn(example) == "101 001");
  const float hides = -std::numeric_limits<float>::infinity();
  const float additive[] = {0, hides, 0, hides, hides, 0};
  example.tensors.mask = {additive, {2, 3}};
  CHECK(drawn(example) == "101 001");
  example.tensors.mask = {boolean, {1, 3}};
  CHECK(drawn(example) == "101 101");
  example.tensors.mask = {boolean, {2, 2}, {3, 1}};
  CHECK(drawn(example) == "100 000");
  example.tensors.mask = {boolean, {2, 1}};
  CHECK(drawn(example) == "111 000");
  example.tensors.mask = TensorView(boolean, {3, 2}).permuted({1, 0});
  CHECK(drawn(example) == "110 001");

  Example heads({.batch = 2, .num_q_heads = 2, .kv_len = 2});
  const bool per_head[] = {true, false, false, true};
  heads.tensors.mask = {per_head, {2, 1, 2}};
  CHECK(drawn(heads) == "10 01 10 01");
  heads.tensors.mask = {per_head, {2, 1, 1, 2}};
  CHECK(drawn(heads) == "10 10 01 01");
}

TEST_CASE("mask_mod joins the other masks") {
  Example example({.batch = 2, .num_q_heads = 2, .q_len = 2, .kv_len = 4});
  example.options.causal = Causal::bottom_right();
  example.options.mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n)
      visible[n] = (run.key_begin + n) % 2 == run.q_head && run.batch == 0;
  };
  CHECK(drawn(example) == "1010 1010 0100 0101 0000 0000 0000 0000");
}

TEST_CASE("The stages of the scores, with hidden keys plain until they are masked") {
  Example example = with_scores({1, -2, 3}, {0, 0, 0});
  example.options.softmax_scale = 2.f;
  example.options.softcap = 5.f;
  example.options.causal = Causal::with_offset(1);
  const float slopes[] = {0.5f};
  example.tensors.alibi_slopes = {slopes, {1}};
  const float mask[] = {0.25f, -8.f, 0.f};
  example.tensors.mask = {mask, {1, 3}};
  check_values(example.scores(ScoreStage::scaled), {2, -4, 6});
  const auto capped = [](double score) { return 5 * std::tanh(score / 5); };
  check_values(example.scores(ScoreStage::capped), {capped(2), capped(-4), capped(6)});
  const double first = capped(2) - 0.5 + 0.25;
  const double second = capped(-4) - 8;
  check_values(example.scores(ScoreStage::masked), {first, second, -infinity});
  const double share = 1 / (1 + std::exp(second - first));
  check_values(example.scores(ScoreStage::weights), {share, 1 - share, 0});
}

TEST_CASE("ALiBi counts distances from the position, both ways") {
  Example example({.num_q_heads = 2, .q_len = 2, .kv_len = 3});
  const float slopes[] = {1.f, 0.5f};
  example.tensors.alibi_slopes = {slopes, {2}};
  check_values(example.scores(ScoreStage::masked),
               {-1, 0, -1, -2, -1, 0, -0.5, 0, -0.5, -1, -0.5, 0});
}

TEST_CASE("A sink takes its share of the denominator and brings no value") {
  Example example = with_scores({0, 0}, {3, 6});
  const float sink = 0;
  example.tensors.sinks = {&sink, {1}};
  example.run();
  CHECK(out_at(example, 0) == doctest::Approx(3).epsilon(1e-14));
  CHECK(lse_at(example, 0) == doctest::Approx(std::log(3)).epsilon(1e-7));
  check_values(example.scores(ScoreStage::weights), {1. / 3, 1. / 3});
  const float none = -std::numeric_limits<float>::infinity();
  example.tensors.sinks = {&none, {1}};
  example.run();
  CHECK(out_at(example, 0) == doctest::Approx(4.5).epsilon(1e-14));
  CHECK(lse_at(example, 0) == doctest::Approx(std::log(2)).epsilon(1e-7));
}

TEST_CASE("A sink may dwarf the scores") {
  Example example = with_scores({0, -900}, {3, 6});
  const float sink = 1000;
  example.tensors.sinks = {&sink, {1}};
  example.run();
  CHECK(out_at(example, 0) == 0);
  CHECK(lse_at(example, 0) == 1000);
}

TEST_CASE("A row that sees no key is 0, and its lse the sink or -inf") {
  Example example = with_scores({1, 2}, {3, 4});
  example.options.causal = Causal::with_offset(-1);
  example.run();
  CHECK(out_at(example, 0) == 0);
  CHECK(lse_at(example, 0) == -infinity);
  check_values(example.scores(ScoreStage::weights), {0, 0});
  const float sink = 1.5f;
  example.tensors.sinks = {&sink, {1}};
  example.run();
  CHECK(out_at(example, 0) == 0);
  CHECK(lse_at(example, 0) == 1.5);

  Example no_keys({.q_len = 2, .kv_len = 0});
  std::fill_n(no_keys.out.data<double>(), 2, 7.0);
  no_keys.run();
  CHECK(out_at(no_keys, 1) == 0);
  CHECK(lse_at(no_keys, 1) == -infinity);
}

TEST_CASE("A hidden key is never read into the result") {
  Example example = with_scores({0, std::nan(""), 0}, {2, std::nan(""), 4});
  const float hides[] = {0, -std::numeric_limits<float>::infinity(), 0};
  example.tensors.mask = {hides, {1, 3}};
  example.run();
  CHECK(out_at(example, 0) == 3);
  CHECK(lse_at(example, 0) == doctest::Approx(std::log(2)).epsilon(1e-7));
}

TEST_CASE("A score of -inf has probability 0, wherever it comes from") {
  Example example = with_scores({0, -infinity, 0}, {2, std::nan(""), 4});
  example.run();
  CHECK(out_at(example, 0) == 3);
  fill(example.k, {0, 0, 0});
  example.options.score_mod = [](const KeyRun&, float* scores) {
    scores[1] = -std::numeric_limits<float>::infinity();
  };
  example.run();
  CHECK(out_at(example, 0) == 3);
}

TEST_CASE("Visible NaN and inf follow IEEE and stay in their rows") {
  Example example({.q_len = 2, .kv_len = 2});
  example.options.causal = Causal::bottom_right();
  fill(example.v, {5, std::nan("")});
  example.run();
  CHECK(out_at(example, 0) == 5);
  CHECK(std::isnan(out_at(example, 1)));
  CHECK(lse_at(example, 1) == doctest::Approx(std::log(2)).epsilon(1e-7));
  fill(example.v, {5, infinity});
  example.run();
  CHECK(out_at(example, 1) == infinity);
  fill(example.v, {5, 7});
  fill(example.q, {0, std::nan("")});
  example.run();
  CHECK(out_at(example, 0) == 5);
  CHECK(std::isnan(out_at(example, 1)));
  CHECK(std::isnan(lse_at(example, 1)));
}

TEST_CASE("score_mod gets the row's scores after biases, and cannot bring a hidden key back") {
  Example example({.batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 3, .kv_len = 4});
  const float slopes[] = {0, 0, 0, 1};
  example.tensors.alibi_slopes = {slopes, {4}};
  example.options.causal = Causal::bottom_right();
  example.execution.num_threads = 1;
  std::vector<KeyRun> runs;
  example.options.score_mod = [&](const KeyRun& run, float* scores) {
    runs.push_back(run);
    for (std::int64_t n = 0; n < run.count; ++n) scores[n] = 10 * scores[n] + 1;
  };
  const std::vector<double> masked = example.scores(ScoreStage::masked);
  REQUIRE(runs.size() == 2 * 4 * 3);
  const KeyRun last = runs.back();
  CHECK(last.batch == 1);
  CHECK(last.q_head == 3);
  CHECK(last.kv_head == 1);
  CHECK(last.q_index == 2);
  CHECK(last.q_position == 3);
  CHECK(last.key_begin == 0);
  CHECK(last.count == 4);
  check_values({masked.end() - 4, masked.end()}, {-29, -19, -9, 1});
  check_values({masked.end() - 12, masked.end() - 8}, {-9, 1, -infinity, -infinity});
}

TEST_CASE("Query heads share the KV head of their group") {
  Example example({.num_q_heads = 4, .num_kv_heads = 2});
  fill(example.v, {1, 2});
  example.run();
  for (std::int64_t head = 0; head < 4; ++head) CHECK(out_at(example, head) == (head < 2 ? 1 : 2));
}

TEST_CASE("Scores go into f32 or f64 of the right shape") {
  const Example example({.q_len = 2, .kv_len = 3});
  const auto code_of = [&](const MutableTensorView& scores) -> std::optional<ErrorCode> {
    try {
      reference_scores(example.tensors, {}, ScoreStage::scaled, scores);
    } catch (const Error& error) {
      return error.code();
    }
    return std::nullopt;
  };
  Tensor right(DType::f32, {1, 1, 2, 3}), wrong_shape(DType::f32, {1, 1, 3, 2}),
      wrong_type(DType::bf16, {1, 1, 2, 3});
  CHECK_FALSE(code_of(right.view()));
  CHECK(code_of(wrong_shape.view()) == ErrorCode::invalid_argument);
  CHECK(code_of(wrong_type.view()) == ErrorCode::invalid_argument);
  CHECK(code_of({}) == ErrorCode::invalid_argument);
}
