// Sigmoid, sparsemax and entmax in softmax's place, with every option, against the reference; and
// the reference against their definitions. Random combinations are in test_random_cases and
// test_ragged, poison is in test_hidden_keys.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/check.hpp"
#include "support/masks.hpp"
#include "support/random.hpp"
#include "support/sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

/// Those whose weights change by no more than the scores, so that a plain float program tells what
/// rounding may cost.
std::vector<Normalizer> gentle() {
  return {Normalizer::sigmoid(), Normalizer::sigmoid(0.5f), Normalizer::entmax(1.25f),
          Normalizer::entmax(1.5f), Normalizer::sparsemax()};
}

bool is_sigmoid(const Normalizer& normalizer) {
  return normalizer.kind() == Normalizer::Kind::sigmoid;
}

Case usual(const Normalizer& normalizer) {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 23,
          .kv_len = 90,
          .head_dim = 24,
          .v_head_dim = 20,
          .options = {.normalizer = normalizer},
          .lse = false};
}

void check_with_each(const std::function<void(Case&)>& change) {
  for (const Normalizer& normalizer : gentle()) {
    Case c = usual(normalizer);
    change(c);
    if (is_sigmoid(normalizer)) c.sinks = false;
    check_case(c);
  }
}

/// What the weights of a case's rows are, in double, and the scores that they are made of: [batch,
/// num_q_heads, q_len, kv_len].
Tensor stage_of(const Case& c, const Inputs& inputs, ScoreStage stage) {
  Outputs outputs = make_outputs(c);
  Tensor scores(DType::f64, {c.batch, c.num_q_heads, c.q_len, c.kv_len});
  reference_scores(bind(inputs, outputs), c.options, stage, scores.view());
  return scores;
}

/// Calls f(scores, weights, row) for each row.
template <class F>
void for_each_row(const Case& c, const Inputs& inputs, F&& f) {
  const Tensor scores = stage_of(c, inputs, ScoreStage::masked),
               weights = stage_of(c, inputs, ScoreStage::weights);
  for (std::int64_t row = 0; row < c.batch * c.num_q_heads * c.q_len; ++row) {
    f(scores.data<double>() + row * c.kv_len, weights.data<double>() + row * c.kv_len, row);
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
    c.options.softmax_scale = 0.4f;  // sparse: whole stretches of keys weigh nothing
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

TEST_CASE("Sinks: one more score that takes its share") {
  for (const float alpha : {1.25f, 1.5f, 2.f}) {
    Case c = usual(Normalizer::entmax(alpha));
    c.sinks = true;
    check_case(c);
    c.options.causal = Causal::with_offset(-4);
    check_case(c);
    // A sink that is far above all scores leaves nothing.
    Inputs inputs = make_inputs(c);
    inputs.sinks.assign({100, 100, 100, 100});
    for (const Isa isa : available_isas()) {
      const std::vector<double> out = run(inputs, c, isa).out.values();
      CHECK(std::all_of(out.begin(), out.end(), [](double value) { return value == 0; }));
    }
    // One of NaN is NaN, but not to rows that see no key.
    inputs.sinks.assign(std::vector<double>(4, std::nan("")));
    Case blind = c;
    blind.mask = {.shape = {23, 1}, .hidden = 0.5};
    Inputs undefined = make_inputs(blind);
    undefined.sinks = inputs.sinks;
    check_inputs(blind, undefined);
    // And one of -inf is none.
    inputs.sinks.assign(std::vector<double>(4, -HUGE_VAL));
    Case without = c;
    without.sinks = false;
    for (const Isa isa : available_isas())
      CHECK(bit_difference(run(inputs, c, isa), run(make_inputs(without), without, isa)) == "");
  }
}

TEST_CASE("The reference has the weights of the definitions") {
  for (const float alpha : {1.0001f, 1.1f, 1.5f, 1.9f, 2.f, 2.2f, 3.f, 10.f}) {
    Case c = usual(Normalizer::entmax(alpha));
    c.options.causal = Causal::bottom_right();
    c.mask = {.shape = {c.q_len, c.kv_len}};
    const double factor = static_cast<double>(alpha) - 1;
    for_each_row(c, make_inputs(c), [&](const double* scores, const double* weights, std::int64_t) {
      double sum = 0, lowest = HUGE_VAL,
             highest = -HUGE_VAL;  // of the taus that each weight of the support tells
      for (std::int64_t j = 0; j < c.kv_len; ++j) {
        sum += weights[j];
        if (scores[j] == -HUGE_VAL) CHECK(weights[j] == 0);
        if (!(weights[j] > 0)) continue;
        const double tau = factor * scores[j] - std::pow(weights[j], factor);
        lowest = std::min(lowest, tau);
        highest = std::max(highest, tau);
      }
      CHECK(std::abs(sum - 1) <= 1e-12);
      CHECK(highest - lowest <= 1e-12);
      for (std::int64_t j = 0; j < c.kv_len; ++j)
        CHECK((weights[j] > 0 || factor * scores[j] <= highest + 1e-12));
    });
  }
  for (const Normalizer& normalizer : {Normalizer::sigmoid(), Normalizer::sigmoid(-0.7f)}) {
    Case c = usual(normalizer);
    c.kv_lens = {90, 40};
    for_each_row(
        c, make_inputs(c), [&](const double* scores, const double* weights, std::int64_t row) {
          const double keys = row < c.num_q_heads * c.q_len ? 90 : 40;
          const double bias =
              normalizer.bias() ? static_cast<double>(*normalizer.bias()) : -std::log(keys);
          for (std::int64_t j = 0; j < c.kv_len; ++j) {
            const double wanted =
                scores[j] == -HUGE_VAL ? 0 : 0.5 + 0.5 * std::tanh((scores[j] + bias) / 2);
            CHECK(std::abs(weights[j] - wanted) <= 1e-15);
          }
        });
  }
}

namespace {

/// How far O may be off, by element, if each score is off by its rounding. With z = (alpha - 1) s
/// off by d at most, tau, a mean of the z, is off by d too, so z - tau by 2 d, and a weight by what
/// the power makes of that; beside it stand the rounding of the weight itself and of the sum of
/// kv_len products.
std::vector<double> entmax_tolerances(const Case& c, const Inputs& inputs) {
  const std::vector<double> q = inputs.q.values(), k = inputs.k.values(), v = inputs.v.values();
  const double scale = c.options.softmax_scale.value_or(
      static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_dim))));
  const double factor = static_cast<double>(c.options.normalizer.alpha()) - 1;
  const auto power = [factor](double above) { return above > 0 ? std::pow(above, 1 / factor) : 0; };
  std::vector<double> tolerances;
  for_each_row(c, inputs, [&](const double* scores, const double* weights, std::int64_t row) {
    const std::int64_t kv_head = row / c.q_len / (c.num_q_heads / c.num_kv_heads);
    const double* const keys = k.data() + kv_head * c.kv_len * c.head_dim;
    double score_error = 0, tau = 0, greatest_weight = 0;
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      double magnitude = 0;
      for (std::int64_t d = 0; d < c.head_dim; ++d)
        magnitude += std::abs(q[row * c.head_dim + d] * keys[j * c.head_dim + d]);
      // head_dim products and sums, the scale twice, and the distance from the greatest.
      score_error = std::max(
          score_error, static_cast<double>(c.head_dim + 4) * eps / 2 * std::abs(scale) * magnitude);
      if (weights[j] <= greatest_weight) continue;
      greatest_weight = weights[j];
      tau = factor * scores[j] - std::pow(weights[j], factor);
    }
    const double d = factor * score_error;
    std::vector<double> allowed(static_cast<std::size_t>(c.value_dim()));
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      const double above = factor * scores[j] - tau;
      const double off =
          std::max(power(above + 2 * d) - weights[j], weights[j] - power(above - 2 * d)) +
          2 * eps * weights[j];
      const double rounding = static_cast<double>(c.kv_len) * eps / 2 * weights[j];
      const double* const value = v.data() + (kv_head * c.kv_len + j) * c.value_dim();
      for (std::size_t n = 0; n < allowed.size(); ++n)
        allowed[n] += (std::max(off, 0.0) + rounding) * std::abs(value[n]);
    }
    tolerances.insert(tolerances.end(), allowed.begin(), allowed.end());
  });
  return tolerances;
}

}  // namespace

TEST_CASE("Any alpha, also those whose weights are steep") {
  for (const float alpha : {1.0001f, 1.01f, 1.2f, 1.999f, 2.001f, 2.5f, 3.f, 4.f, 10.f}) {
    for (const float scale : {0.05f, 0.35f, 5.f}) {
      Case c = usual(Normalizer::entmax(alpha));
      c.batch = 1;
      c.head_dim = 8;
      c.options.softmax_scale = scale;
      const Inputs inputs = make_inputs(c);
      INFO(repeat_line(c));
      Case in_double = c;
      in_double.out_type = DType::f64;
      Outputs wanted = make_outputs(in_double);
      attention_reference(bind(inputs, wanted), c.options, c.execution);
      const std::vector<double> truth = wanted.out.values(),
                                tolerances = entmax_tolerances(c, inputs);
      for (const Isa isa : available_isas()) {
        const std::vector<double> out = run(inputs, c, isa).out.values();
        double worst = 0;  // of its tolerance
        for (std::size_t n = 0; n < out.size(); ++n)
          worst = std::max(worst, std::abs(out[n] - truth[n]) / tolerances[n]);
        CHECK(worst <= 1);
      }
    }
  }
}

TEST_CASE("entmax(1) is softmax, and close to 1 it is close to it") {
  CHECK(Normalizer::entmax(1) == Normalizer::softmax());
  Case c = usual(Normalizer::entmax(1));
  c.lse = c.sinks = true;
  check_case(c);
  Case softmax = c;
  softmax.options.normalizer = {};
  for (const Isa isa : available_isas())
    CHECK(bit_difference(run(make_inputs(c), c, isa), run(make_inputs(c), softmax, isa)) == "");

  // dP/dalpha at alpha = 1 is P (sum of P log^2 P - log^2 P) / 2 (Correia et al. 2019, proposition
  // 1): O moves by no more than (alpha - 1) max log^2 P max|V|, half of it from either term; as
  // much again is left for what is of second order.
  c.lse = c.sinks = false;
  const float step = 0x1p-12f;
  const Inputs inputs = make_inputs(c);
  Case plain = c;
  double greatest_log = 0;
  for_each_row(plain, inputs, [&](const double*, const double* weights, std::int64_t) {
    for (std::int64_t j = 0; j < c.kv_len; ++j)
      greatest_log = std::max(greatest_log, std::pow(std::log(weights[j]), 2));
  });
  const std::vector<double> v = inputs.v.values();
  const double largest = std::abs(*std::max_element(
      v.begin(), v.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
  Case close = c;
  close.options.normalizer = Normalizer::entmax(1 + step);
  CHECK(close.options.normalizer != Normalizer::softmax());
  for (const Isa isa : available_isas()) {
    const std::vector<double> a = run(inputs, plain, isa).out.values(),
                              b = run(inputs, close, isa).out.values();
    CHECK(difference(b, a, 2 * static_cast<double>(step) * greatest_log * largest) == "");
  }
}

TEST_CASE("Equal scores weigh the same: V with a one for each key shows which were seen") {
  for (const Normalizer& normalizer : {Normalizer::entmax(1.5f), Normalizer::sparsemax(),
                                       Normalizer::entmax(4), Normalizer::sigmoid()}) {
    Case c = usual(normalizer);
    c.batch = 1;
    c.q_len = 40;
    c.kv_len = 40;
    c.v_head_dim = 40;
    c.options.causal = Causal::bottom_right();
    c.options.window = Window{9, {}};
    Inputs inputs = make_inputs(c);
    inputs.q.assign(std::vector<double>(static_cast<std::size_t>(inputs.q.shape().product()), 0.0));
    for_each_index(inputs.v.shape(),
                   [&](const Dims& at) { inputs.v.set(at, at[2] == at[3] ? 1 : 0); });
    for (const Isa isa : available_isas()) {
      const std::vector<double> out = run(inputs, c, isa).out.values();
      for (std::int64_t row = 0; row < 4 * 40; ++row) {
        const std::int64_t i = row % 40;
        // Of sigmoid: 1 / (1 + exp(log 40)).
        const double weight = is_sigmoid(normalizer)
                                  ? 1.0 / 41
                                  : 1.0 / static_cast<double>(std::min<std::int64_t>(i + 1, 10));
        for (std::int64_t j = 0; j < 40; ++j) {
          const double got = out[static_cast<std::size_t>(row * 40 + j)];
          const bool seen = j <= i && j >= i - 9;
          CHECK(std::abs(got - (seen ? weight : 0)) <= (seen ? 8 * eps * weight : 0));
        }
      }
    }
  }
}

TEST_CASE("Large scores: one key has all of the weight, exactly; sigmoid's weights are 0 and 1") {
  for (const Normalizer& normalizer :
       {Normalizer::entmax(1.5f), Normalizer::sparsemax(), Normalizer::entmax(3)}) {
    Case c = usual(normalizer);
    c.options.softmax_scale = 1e5f;
    const Inputs inputs = make_inputs(c);
    const std::vector<double> v = inputs.v.values();
    for (const Isa isa : available_isas()) {
      const std::vector<double> out = run(inputs, c, isa).out.values();
      for_each_row(c, inputs, [&](const double* scores, const double*, std::int64_t row) {
        const std::int64_t best = std::max_element(scores, scores + c.kv_len) - scores;
        const std::int64_t kv_head = row / c.q_len / 2;  // through the batch
        CHECK(std::equal(out.begin() + row * 20, out.begin() + (row + 1) * 20,
                         v.begin() + (kv_head * c.kv_len + best) * 20));
      });
    }
  }
  Case c = usual(Normalizer::sigmoid(0.f));
  c.options.softmax_scale = 1e5f;
  Inputs inputs = make_inputs(c);
  inputs.v.assign(std::vector<double>(static_cast<std::size_t>(inputs.v.shape().product()), 1.0));
  for (const Isa isa : available_isas()) {
    const std::vector<double> out = run(inputs, c, isa).out.values();
    for_each_row(c, inputs, [&](const double* scores, const double*, std::int64_t row) {
      const auto positive =
          std::count_if(scores, scores + c.kv_len, [](double score) { return score > 0; });
      CHECK(out[static_cast<std::size_t>(row * 20)] == static_cast<double>(positive));
    });
  }
}

TEST_CASE("Rows that see no key, and no keys at all") {
  for (Normalizer normalizer : gentle()) {
    Case c = usual(normalizer);
    c.options.causal = Causal::with_offset(-10);
    c.sinks = !is_sigmoid(normalizer);
    const auto check_zero_rows = [&](std::int64_t rows) {
      const Inputs inputs = make_inputs(c);
      for (const Isa isa : available_isas()) {
        const std::vector<double> out = run(inputs, c, isa).out.values();
        for (std::size_t n = 0; n < out.size(); ++n) {
          const auto i = static_cast<std::int64_t>(n) / 20 % c.q_len;
          if (i < rows) CHECK(out[n] == 0);
        }
      }
      check_case(c);
    };
    check_zero_rows(10);
    c.kv_len = 0;
    check_zero_rows(c.q_len);
    c.kv_len = 90;
    c.options.causal.reset();
    c.mask = {.dtype = DType::f32, .shape = {23, 90}, .hidden = 1};
    check_zero_rows(c.q_len);
    c.q_len = 0;
    c.mask.reset();
    CHECK_NOTHROW(run(make_inputs(c), c));
  }
}

TEST_CASE("+inf and NaN among the scores touch their own rows alone") {
  for (const Normalizer& normalizer : gentle()) {
    Case c = usual(normalizer);
    for (const double poison : {HUGE_VAL, std::nan("")}) {
      Inputs inputs = make_inputs(c);
      inputs.q.set({1, 2, 5, 0}, poison);
      check_inputs(c, inputs);
    }
  }
}

TEST_CASE("The unfused baseline, too: with masks, sinks and values that are not finite") {
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

TEST_CASE("Whoever's matmul is asked for, the scores have the same bits") {
  Case c = usual(Normalizer::sparsemax());
  c.q_len = c.kv_len = 200;
  Case onednn = c;
  onednn.options.score_matmul = ScoreMatmul::onednn;
  for (const Isa isa : available_isas())
    CHECK(bit_difference(run(make_inputs(c), c, isa), run(make_inputs(c), onednn, isa)) == "");
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
    CHECK(size_of_plan(normalizer, 4096, 4096) == size_of_plan(normalizer, 1024, 4096));
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
    const std::function<void()> ways[] = {
        [&] { attention(tensors, c.options, c.execution); },
        [&] { AttentionPlan(tensors, c.options, c.execution); },
        [&] { attention_reference(tensors, c.options, c.execution); },
        [&] { attention_unfused(tensors, c.options, c.execution); },
        [&] { reference_scores(tensors, c.options, ScoreStage::weights, scores.view()); }};
    for (const auto& way : ways) CHECK(error_of(way).find(wrong.fault) != std::string::npos);
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
