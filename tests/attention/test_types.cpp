// Every combination of f32, bf16 and f16 for Q, for K and V, and for O.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "support/check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

template <class F>
void for_each_combination(F&& f) {
  for (const DType q : types) {
    for (const DType kv : types) {
      for (const DType out : types) f(q, kv, out);
    }
  }
}

}  // namespace

TEST_CASE("Every combination, over head dims and lengths") {
  for_each_combination([](DType q, DType kv, DType out) {
    for (const std::int64_t head_dim : {1, 7, 16, 33, 64, 72, 80, 128}) {
      check_case({.num_q_heads = 2,
                  .num_kv_heads = 1,
                  .q_len = 9,
                  .kv_len = 65,
                  .head_dim = head_dim,
                  .q_type = q,
                  .kv_type = kv,
                  .out_type = out,
                  .options = {.causal = Causal::bottom_right()}});
    }
  });
}

TEST_CASE("Every combination with every feature of scores") {
  for_each_combination([](DType q, DType kv, DType out) {
    Case c{
        .batch = 2, .num_q_heads = 2, .q_len = 14, .kv_len = 100, .head_dim = 24, .v_head_dim = 10};
    c.num_kv_heads = 2;
    c.q_type = q;
    c.kv_type = kv;
    c.out_type = out;
    c.options.softcap = 5.f;
    c.options.window = Window{60, {}};
    c.mask = {.dtype = DType::bf16, .shape = {14, 100}};
    c.alibi = c.sinks = true;
    c.kv_lens = {0, 99};
    check_case(c);
  });
}

TEST_CASE("Subnormal and largest values survive their type") {
  for (const DType dtype : types) {
    for (const double value : {1e-7, 6e-8, 5e-6, 6e4}) {
      const Case c{.q_len = 3,
                   .kv_len = 20,
                   .head_dim = 4,
                   .v_head_dim = 6,
                   .kv_type = dtype,
                   .out_type = dtype};
      Inputs inputs = make_inputs(c);
      std::vector<double> values = inputs.v.values();
      for (std::size_t n = 0; n < values.size(); ++n) values[n] = n % 3 == 0 ? -value : value;
      inputs.v.assign(values);
      CAPTURE(value);
      check_inputs(c, inputs);
    }
  }
}

TEST_CASE("With one key O is its values, rounded once and to nearest even") {
  std::vector<double> values = {1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1p-11, 1 + 0x3p-11, -1 - 0x1.01p-8,
                                65519,      65520,      0x1p-25,     0x3p-25,     1e-42};
  values.push_back(-0x1.fffffep127);
  const auto count = static_cast<std::int64_t>(values.size());
  for (const DType dtype : types) {
    const Case c{.q_len = 3, .head_dim = 5, .v_head_dim = count, .out_type = dtype};
    Inputs inputs = make_inputs(c);
    inputs.v.assign(values);
    StridedTensor expected(dtype, {1, 1, c.q_len, count});
    const TensorView every_row(inputs.v.view().data, DType::f32, expected.shape(), {0, 0, 0, 1});
    copy_into(every_row, expected.view());
    INFO(repeat_line(c));
    for (const Isa isa : available_isas()) CHECK(run(inputs, c, isa).out.bits() == expected.bits());
  }
}

TEST_CASE("An output beyond f16's range is infinite there") {
  const Case c{.q_len = 2, .kv_len = 5, .head_dim = 4, .out_type = DType::f16};
  Inputs inputs = make_inputs(c);
  inputs.v.assign(std::vector<double>(20, -1e6));
  for (const Isa isa : available_isas()) {
    for (const double value : run(inputs, c, isa).out.values()) CHECK(value == -HUGE_VAL);
  }
}
