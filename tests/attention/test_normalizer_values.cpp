// Sigmoid, sparsemax and entmax against their definitions: probabilities of the reference, any
// alpha, the limit of softmax, exact zeros, rows without keys and values that are not finite.
#include <attn/isa.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/check.hpp"
#include "support/normalizer_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

/// The scores of a case at this stage, by the reference in double: [batch, num_q_heads, q_len,
/// kv_len].
Tensor stage_of(const Case& c, const Inputs& inputs, ScoreStage stage) {
  Outputs outputs = make_outputs(c);
  Tensor scores(DType::f64, {c.batch, c.num_q_heads, c.q_len, c.kv_len});
  reference_scores(bind(inputs, outputs), c.options, stage, scores.view());
  return scores;
}

/// Calls f(masked scores, probabilities, row) for each row.
template <class F>
void for_each_row(const Case& c, const Inputs& inputs, F&& f) {
  const Tensor scores = stage_of(c, inputs, ScoreStage::masked),
               probabilities = stage_of(c, inputs, ScoreStage::weights);
  for (std::int64_t row = 0; row < c.batch * c.num_q_heads * c.q_len; ++row) {
    f(scores.data<double>() + row * c.kv_len, probabilities.data<double>() + row * c.kv_len, row);
  }
}

}  // namespace

TEST_CASE("The reference's probabilities follow the definitions") {
  for (const float alpha : {1.0001f, 1.1f, 1.5f, 1.9f, 2.f, 2.2f, 3.f, 10.f}) {
    Case c = usual(Normalizer::entmax(alpha));
    c.options.causal = Causal::bottom_right();
    c.mask = {.shape = {c.q_len, c.kv_len}};
    const double factor = static_cast<double>(alpha) - 1;
    for_each_row(c, make_inputs(c),
                 [&](const double* scores, const double* probabilities, std::int64_t) {
                   double sum = 0, lowest = HUGE_VAL,
                          highest = -HUGE_VAL;  // of the tau that each key of the support implies
                   for (std::int64_t j = 0; j < c.kv_len; ++j) {
                     sum += probabilities[j];
                     if (scores[j] == -HUGE_VAL) CHECK(probabilities[j] == 0);
                     if (!(probabilities[j] > 0)) continue;
                     const double tau = factor * scores[j] - std::pow(probabilities[j], factor);
                     lowest = std::min(lowest, tau);
                     highest = std::max(highest, tau);
                   }
                   CHECK(std::abs(sum - 1) <= 1e-12);
                   CHECK(highest - lowest <= 1e-12);
                   for (std::int64_t j = 0; j < c.kv_len; ++j)
                     CHECK((probabilities[j] > 0 || factor * scores[j] <= highest + 1e-12));
                 });
  }
  for (const Normalizer& normalizer : {Normalizer::sigmoid(), Normalizer::sigmoid(-0.7f)}) {
    Case c = usual(normalizer);
    c.kv_lens = {90, 40};
    for_each_row(c, make_inputs(c),
                 [&](const double* scores, const double* probabilities, std::int64_t row) {
                   const double keys = row < c.num_q_heads * c.q_len ? 90 : 40;
                   const double bias = normalizer.bias() ? static_cast<double>(*normalizer.bias())
                                                         : -std::log(keys);
                   for (std::int64_t j = 0; j < c.kv_len; ++j) {
                     const double wanted =
                         scores[j] == -HUGE_VAL ? 0 : 0.5 + 0.5 * std::tanh((scores[j] + bias) / 2);
                     CHECK(std::abs(probabilities[j] - wanted) <= 1e-15);
                   }
                 });
  }
}

namespace {

/// How far each element of O may be off if each score is off by its rounding. If z = (alpha - 1) s
/// is off by at most d, then tau, which is a mean of values of z, is off by at most d as well,
/// z - tau by 2 d, and a probability by what the power makes of that. Added to this are the
/// rounding of the probability itself and of the sum of kv_len products.
std::vector<double> entmax_tolerances(const Case& c, const Inputs& inputs) {
  const std::vector<double> q = inputs.q.values(), k = inputs.k.values(), v = inputs.v.values();
  const double scale = c.options.softmax_scale.value_or(
      static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_dim))));
  const double factor = static_cast<double>(c.options.normalizer.alpha()) - 1;
  const auto power = [factor](double above) { return above > 0 ? std::pow(above, 1 / factor) : 0; };
  std::vector<double> tolerances;
  for_each_row(c, inputs, [&](const double* scores, const double* probabilities, std::int64_t row) {
    const std::int64_t kv_head = row / c.q_len / (c.num_q_heads / c.num_kv_heads);
    const double* const keys = k.data() + kv_head * c.kv_len * c.head_dim;
    double score_error = 0, tau = 0, greatest_probability = 0;
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      double magnitude = 0;
      for (std::int64_t d = 0; d < c.head_dim; ++d)
        magnitude += std::abs(q[row * c.head_dim + d] * keys[j * c.head_dim + d]);
      // head_dim products and sums, the scale twice, and the distance from the greatest.
      score_error = std::max(
          score_error, static_cast<double>(c.head_dim + 4) * eps / 2 * std::abs(scale) * magnitude);
      if (probabilities[j] <= greatest_probability) continue;
      greatest_probability = probabilities[j];
      tau = factor * scores[j] - std::pow(probabilities[j], factor);
    }
    const double d = factor * score_error;
    std::vector<double> allowed(static_cast<std::size_t>(c.value_dim()));
    for (std::int64_t j = 0; j < c.kv_len; ++j) {
      const double above = factor * scores[j] - tau;
      const double off = std::max(power(above + 2 * d) - probabilities[j],
                                  probabilities[j] - power(above - 2 * d)) +
                         2 * eps * probabilities[j];
      const double rounding = static_cast<double>(c.kv_len) * eps / 2 * probabilities[j];
      const double* const value = v.data() + (kv_head * c.kv_len + j) * c.value_dim();
      for (std::size_t n = 0; n < allowed.size(); ++n)
        allowed[n] += (std::max(off, 0.0) + rounding) * std::abs(value[n]);
    }
    tolerances.insert(tolerances.end(), allowed.begin(), allowed.end());
  });
  return tolerances;
}

}  // namespace

TEST_CASE("Any alpha, including those whose probabilities change faster than the scores") {
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
        double worst = 0;  // error as a part of its tolerance
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
  // 1). O changes by no more than (alpha - 1) max log^2 P max|V|, half of which comes from either
  // term; the bound is doubled to leave room for terms of second order.
  c.lse = c.sinks = false;
  const float step = 0x1p-12f;
  const Inputs inputs = make_inputs(c);
  Case plain = c;
  double greatest_log = 0;
  for_each_row(plain, inputs, [&](const double*, const double* probabilities, std::int64_t) {
    for (std::int64_t j = 0; j < c.kv_len; ++j)
      greatest_log = std::max(greatest_log, std::pow(std::log(probabilities[j]), 2));
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

TEST_CASE(
    "Equal scores have equal probabilities: indicator columns in V show which keys were seen") {
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
        // sigmoid gives 1 / (1 + exp(log 40)).
        const double probability =
            is_sigmoid(normalizer) ? 1.0 / 41
                                   : 1.0 / static_cast<double>(std::min<std::int64_t>(i + 1, 10));
        for (std::int64_t j = 0; j < 40; ++j) {
          const double got = out[static_cast<std::size_t>(row * 40 + j)];
          const bool seen = j <= i && j >= i - 9;
          CHECK(std::abs(got - (seen ? probability : 0)) <= (seen ? 8 * eps * probability : 0));
        }
      }
    }
  }
}

TEST_CASE("Large scores: one key has probability 1 exactly; sigmoid's probabilities are 0 and 1") {
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
