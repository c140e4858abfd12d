// Everything that changes scores without hiding keys: scale, softcap, ALiBi, additive masks, sinks;
// and scores at the ends of the range of floats.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

constexpr float scales[] = {0.f, -0.f, 1.f, 0.125f, -0.3f, -1.f, 1e-3f, 1e-30f, 1e-42f};

/// Two heads in a group, more rows than a register tile and more keys than a block, with
/// remainders.
Case usual() {
  return {
      .batch = 2, .num_q_heads = 4, .num_kv_heads = 2, .q_len = 19, .kv_len = 150, .head_dim = 20};
}

/// Every combination of the other features that touch scores.
template <class F>
void with_companions(F&& f) {
  for (const bool causal : {false, true}) {
    for (const bool additive : {false, true}) {
      Case c = usual();
      if (causal) c.options.causal = Causal::bottom_right();
      if (additive) c.mask = {.dtype = DType::f32, .shape = {c.q_len, c.kv_len}};
      f(c);
    }
  }
}

}  // namespace

TEST_CASE("scale: zero, negative, any") {
  with_companions([](Case c) {
    for (const float scale : scales) {
      c.options.softmax_scale = scale;
      check_case(c);
    }
  });
}

TEST_CASE("softcap") {
  with_companions([](Case c) {
    for (const float softcap : {0.1f, 1.f, 2.5f, 30.f, 1e6f}) {
      c.options.softcap = softcap;
      check_case(c);
    }
  });
}

TEST_CASE("softcap comes after the scale, whatever its sign") {
  Case c = usual();
  c.options.softcap = 0.7f;
  for (const float scale : scales) {
    c.options.softmax_scale = scale;
    check_case(c);
  }
}

TEST_CASE("ALiBi, with every way to set positions") {
  with_companions([](Case c) {
    c.alibi = true;
    check_case(c);
    c.kv_lens = {150, 77};
    check_case(c);
    for (const std::int64_t offset : {-5, 0, 3, 200}) {
      c.options.causal = Causal::with_offset(offset);
      check_case(c);
    }
    c.options.softcap = 1.5f;
    check_case(c);
  });
}

TEST_CASE("sinks") {
  with_companions([](Case c) {
    c.sinks = true;
    check_case(c);
    c.options.softmax_scale = -0.2f;
    c.options.softcap = 3.f;
    c.alibi = true;
    check_case(c);
  });
}

TEST_CASE("A sink far above or below the scores, and one of -inf, which is none") {
  Case c = usual();
  c.sinks = true;
  Inputs inputs = make_inputs(c);
  for (const double sink : {-infinity, -1e30, -200.0, 90.0, 200.0, 1e30}) {
    inputs.sinks.assign({sink, 0.5, sink, -0.5});
    INFO("sink ", sink);
    check_inputs(c, inputs);
  }
}

TEST_CASE("A softmax that is nearly one-hot") {
  with_companions([](Case c) {
    for (const float scale : {30.f, -30.f, 1e4f}) {
      c.options.softmax_scale = scale;
      check_case(c);
    }
  });
}

TEST_CASE("Additive masks of +-1e30 choose keys") {
  Case c = usual();
  c.mask = {.dtype = DType::f32, .shape = {c.q_len, c.kv_len}};
  Inputs inputs = make_inputs(c);
  std::vector<double> mask(static_cast<std::size_t>(c.q_len * c.kv_len));
  for (const double lowest : {-1e30, -infinity}) {
    for (const double highest : {0.0, 1e30}) {
      for (std::size_t n = 0; n < mask.size(); ++n) mask[n] = n % 7 == 0 ? highest : lowest;
      inputs.mask.assign(mask);
      INFO("mask of ", lowest, " and ", highest);
      check_inputs(c, inputs);
    }
  }
}

TEST_CASE("NaN and +inf in an additive mask make NaN of their rows alone") {
  Case c = usual();
  c.mask = {.dtype = DType::f32, .shape = {c.q_len, c.kv_len}};
  for (const bool softcap : {false, true}) {
    if (softcap) c.options.softcap = 2.f;
    for (const double value : {std::nan(""), infinity}) {
      Inputs inputs = make_inputs(c);
      inputs.mask.set({3, 17}, value);
      inputs.mask.set({18, 149}, value);
      CAPTURE(value);
      check_inputs(c, inputs);
      const std::vector<double> lse = run(inputs, c).lse.values();
      CHECK(std::count_if(lse.begin(), lse.end(), [](double x) { return std::isnan(x); }) ==
            2 * c.batch * c.num_q_heads);
    }
  }
}

TEST_CASE("Scores of +-1e30 from Q and K") {
  const Case c{.q_len = 9, .kv_len = 140, .head_dim = 1, .options = {.softmax_scale = 1.f}};
  Inputs inputs = make_inputs(c);
  std::vector<double> keys(static_cast<std::size_t>(c.kv_len));
  for (std::size_t j = 0; j < keys.size(); ++j)
    keys[j] = 1e30 * (static_cast<double>(j * 37 % 11) - 5);
  inputs.k.assign(keys);
  inputs.q.assign({1, -1, 0, 0.5, 1e-30, -1e-30, 3, 1e-8, -7});
  check_inputs(c, inputs);
}

TEST_CASE("Keys of -inf have score -inf and probability 0, whatever their values") {
  Case c{
      .q_len = 9, .kv_len = 140, .head_dim = 1, .v_head_dim = 5, .options = {.softmax_scale = 1.f}};
  for (const bool sinks : {false, true}) {
    c.sinks = sinks;
    for (const std::int64_t every : {1, 2, 70}) {
      Inputs inputs = make_inputs(c);
      inputs.q.assign(std::vector<double>(static_cast<std::size_t>(c.q_len), 1));
      for (std::int64_t j = 0; j < c.kv_len; j += every) {
        inputs.k.set({0, 0, j, 0}, -infinity);
        inputs.v.set({0, 0, j, j % c.value_dim()}, std::nan(""));
      }
      INFO("every key ", every);
      check_inputs(c, inputs);
    }
  }
}
