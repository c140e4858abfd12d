// Tolerances have room for what rounding does to a right program, and none for a wrong one.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "oracle/errors.hpp"
#include "support/check.hpp"
#include "support/random.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::vector<Normalizer> normalizers() {
  return {Normalizer::softmax(),    Normalizer::sigmoid(),    Normalizer::sparsemax(),
          Normalizer::entmax(1.2f), Normalizer::entmax(1.5f), Normalizer::entmax(2.5f),
          Normalizer::entmax(4.f)};
}

Case with(Case c, const Normalizer& normalizer) {
  c.options.normalizer = normalizer;
  c.lse = normalizer == Normalizer::softmax();
  return c;
}

/// Few rows, so that one run shows few of the errors that rounding can make, and scores that are
/// sums of many products.
Case small_case(std::uint64_t seed) {
  Random random(seed);
  Case c;
  c.seed = seed;
  c.num_q_heads = random.pick<std::int64_t>({1, 2});
  c.q_len = random.pick<std::int64_t>({1, 2, 5});
  c.kv_len = random.pick<std::int64_t>({2, 3, 7, 40});
  c.head_dim = random.pick<std::int64_t>({8, 64, 128});
  c.v_head_dim = random.pick<std::int64_t>({1, 8, 33});
  c.options.softmax_scale = random.pick<float>({0.125f, 1.f, 3.f});
  if (random.chance(0.3)) c.options.softcap = 5.f;
  c.alibi = random.chance(0.3);
  return c;
}

void scale_values(Inputs& inputs, double factor) {
  std::vector<double> values = inputs.v.values();
  for (double& value : values) value *= factor;
  inputs.v.assign(values);
}

}  // namespace

TEST_CASE("small calls of every normalizer are within their tolerance") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    for (const Normalizer& normalizer : normalizers())
      check_case(with(small_case(seed), normalizer));
  }
}

TEST_CASE("subnormal values are within their tolerance") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    for (const double magnitude : {1e-40, 1e-44}) {
      for (const Normalizer& normalizer : {Normalizer::softmax(), Normalizer::sparsemax()}) {
        const Case c = with(small_case(seed), normalizer);
        Inputs inputs = make_inputs(c);
        scale_values(inputs, magnitude);
        check_inputs(c, inputs);
      }
    }
  }
}

TEST_CASE("products of one sign, whose sum rounds at each step, are within their tolerance") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    for (const Normalizer& normalizer : normalizers()) {
      Case c = with(small_case(seed), normalizer);
      c.options.softmax_scale = 1.f;
      Inputs inputs = make_inputs(c);
      for (StridedTensor* tensor : {&inputs.q, &inputs.k}) {
        std::vector<double> values = tensor->values();
        for (double& value : values) value = std::abs(value);
        tensor->assign(values);
      }
      check_inputs(c, inputs);
    }
  }
}

TEST_CASE("an infinity is right where the type has no greater number") {
  using detail::errors_between;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const double truth[] = {4e38, -4e38, 3e38, 1};
  const TensorView reference(truth, {4});
  const float right[] = {infinity, -infinity, 3e38f, 1};
  CHECK(errors_between({right, {4}}, reference).max_abs < 1e32);
  for (const auto& [n, value] :
       {std::pair{0, -infinity}, {0, 3.4e38f}, {1, infinity}, {2, infinity}, {3, infinity}}) {
    const int changed = n;
    CAPTURE(changed);
    float wrong[] = {infinity, -infinity, 3e38f, 1};
    wrong[changed] = value;
    CHECK(errors_between({wrong, {4}}, reference).max_abs > 1e37);
  }
  const Tensor of_f16 = copy_as(TensorView(right, {4}).sliced(0, 0, 2), DType::f16);
  CHECK(errors_between(of_f16.view(), reference.sliced(0, 0, 2)).max_abs == 0);
}

TEST_CASE("a key too few, and scores that are off by 1e-4, are outside the tolerance") {
  for (const Normalizer& normalizer : normalizers()) {
    const Case c = with({.num_q_heads = 2, .q_len = 20, .kv_len = 40, .head_dim = 32}, normalizer);
    const Inputs inputs = make_inputs(c);
    const Expected expected = expected_of(c, inputs);
    CHECK(difference(run(inputs, c), expected) == "");

    // Above alpha 2 small probabilities amplify errors without bound.
    const bool amplifies = normalizer == Normalizer::entmax(4.f);
    Inputs longer_queries = inputs;
    std::vector<double> q = inputs.q.values();
    for (double& element : q) element *= amplifies ? 1.01 : 1.0001;
    longer_queries.q.assign(q);
    CHECK(difference(run(longer_queries, c), expected) != "");

    Inputs masked = inputs;
    masked.mask = StridedTensor(DType::boolean, {c.kv_len});
    for (std::int64_t j = 0; j < c.kv_len; ++j) masked.mask.set({j}, j != 7);
    CHECK(difference(run(masked, c), expected) != "");
  }
}
