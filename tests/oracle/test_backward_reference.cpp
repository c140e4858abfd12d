// What the reference's gradients are of rows and keys that add nothing, of sequences, for any
// number of threads, and in 16 bits.
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/backward_examples.hpp"
#include "support/backward_sequences.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
const double not_a_number = std::nan("");

void add(std::vector<double>& sum, const std::vector<double>& values) {
  sum.resize(values.size());
  for (std::size_t n = 0; n < values.size(); ++n) sum[n] += values[n];
}

void check_close(const std::vector<double>& values, const std::vector<double>& wanted) {
  REQUIRE(values.size() == wanted.size());
  for (std::size_t n = 0; n < wanted.size(); ++n)
    CHECK(values[n] == doctest::Approx(wanted[n]).epsilon(1e-12));
}

bool all_zero(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return value == 0; });
}

}  // namespace

TEST_CASE("One query and two keys, by hand") {
  // P is a quarter and three quarters, O is 7, and dS = P (V - O).
  BackwardCase c = small_case();
  c.call.batch = c.call.num_q_heads = c.call.num_kv_heads = c.call.q_len = 1;
  c.call.kv_len = 2;
  c.call.head_dim = 1;
  c.call.v_head_dim = 1;
  c.call.options.softmax_scale = 2.f;
  c.dlse = false;
  BackwardExample example(c);
  example.inputs.q.assign({0.5});
  example.inputs.k.assign({0, std::log(3)});
  example.inputs.v.assign({4, 8});
  example.gradients.dout.assign({1});
  const GradientOutputs got = example.run();
  check_close(got.dq.values(), {2 * 0.75 * std::log(3)});
  check_close(got.dk.values(), {2 * -0.75 * 0.5, 2 * 0.75 * 0.5});
  check_close(got.dv.values(), {0.25, 0.75});
}

TEST_CASE("Rows without keys and hidden keys have gradients of 0, whatever they hold") {
  for (const Normalizer& normalizer : normalizers()) {
    for (const bool sinks : {false, true}) {
      BackwardCase c = small_case();
      c.call.options.normalizer = normalizer;
      c.call.options.causal = Causal::with_offset(-1);  // query 0 sees nothing
      c.call.q_len = 3;
      c.call.kv_len = 5;
      c.call.kv_lens = {0, 4};
      c.call.alibi = true;
      c.call.mask = {.dtype = DType::f32, .shape = {3, 5}, .hidden = 0};
      c.call.sinks = sinks;
      if (sinks && !takes_sinks(normalizer)) continue;
      BackwardExample example(c), poisoned(c);
      const Seen seen = seen_by_masks(c, example.inputs);
      CHECK(poison_unseen(seen, poisoned.inputs, poisoned.gradients, not_a_number) > 0);
      const GradientOutputs got = example.run();
      CHECK(unseen_are_zero(seen, example.inputs, got));
      CHECK(bit_difference(got, poisoned.run()) == "");
      const std::vector<double> dk = got.dk.values(), dq = got.dq.values();
      CHECK(all_zero({dk.begin(), dk.begin() + 2 * 5 * 2}));  // batch entry 0
      CHECK(all_zero({dq.begin(), dq.begin() + 4 * 3 * 2}));
      CHECK_FALSE(all_zero(got.dv.values()));
    }
  }
}

TEST_CASE("A row without keys passes dlse on to its sink, which is its lse") {
  BackwardCase c = small_case();
  c.call.kv_lens = {0, 0};
  c.call.sinks = true;
  BackwardExample example(c);
  const std::vector<double> dlse = example.gradients.dlse.values(),
                            dsinks = example.run().dsinks.values();
  for (std::size_t head = 0; head < 4; ++head) {
    double sum = 0;
    for (const std::size_t row : {2 * head, 2 * head + 1, 2 * head + 8, 2 * head + 9})
      sum += dlse[row];
    CHECK(dsinks[head] == doctest::Approx(sum));
  }
  // A sink of -inf is none.
  example.inputs.sinks.assign({-infinity, -infinity, -infinity, -infinity});
  example.gradients.dlse.assign(std::vector<double>(16, not_a_number));
  CHECK(all_zero(example.run().dsinks.values()));
}

TEST_CASE("The same bits for any number of threads, and for each gradient by itself") {
  for (const std::uint64_t seed : seeds(1, 8)) {
    BackwardCase c = random_small_case(seed);
    c.call.q_len = 100;  // more rows than are differentiated at once
    c.call.mask.reset();
    INFO(repeat_line(c));
    const BackwardExample example(c);
    const GradientOutputs expected = example.run();
    for (const int threads : {2, 3, 7}) {
      BackwardExample other(c);
      other.c.call.execution.num_threads = threads;
      CHECK(bit_difference(expected, other.run()) == "");
    }
    for (const Gradient gradient : all_gradients) {
      if (!wants(c, gradient)) continue;
      BackwardExample other(c);
      for (const Gradient left : all_gradients) {
        if (left != gradient) other.c.left_out.push_back(left);
      }
      GradientOutputs alone;
      alone[gradient] = expected[gradient];
      CHECK(bit_difference(alone, other.run()) == "");
    }
  }
}

TEST_CASE("An absent dlse is one of zeros") {
  BackwardCase c = small_case();
  c.call.sinks = true;
  BackwardExample zeros(c);
  zeros.gradients.dlse.assign(std::vector<double>(16, 0.0));
  c.dlse = false;
  CHECK(bit_difference(BackwardExample(c).run(), zeros.run()) == "");
}

TEST_CASE("Sequences in one call have the gradients that each has alone") {
  for (const std::uint64_t seed : seeds(1, 40)) {
    Random random(seed);
    BackwardCase common = random_small_case(seed);
    common.call.kv_lens.clear();
    Sequences sequences;
    sequences.key_form = random.pick({KeyForm::padded, KeyForm::ragged});
    sequences.ragged_queries = !common.call.mask;
    for (std::int64_t b = 0; b < common.call.batch; ++b) {
      sequences.q_lens.push_back(sequences.ragged_queries ? random.integer(0, 5)
                                                          : common.call.q_len);
      sequences.kv_lens.push_back(random.integer(0, 5));
    }
    sequences.kv_lens.back() = common.call.kv_len;  // as the mask
    BackwardTogether together(common, sequences);
    INFO(repeat_line(common));
    INFO(to_string(sequences));
    AttentionTensors tensors = together.tensors();
    tensors.out = tensors.lse = {};
    attention_backward_reference(tensors, together.gradients(), together.options());
    CHECK(together.padding_is_zero());
    std::vector<double> dalibi, dsinks;
    for (std::size_t b = 0; b < together.alone().size(); ++b) {
      const BackwardAlone& alone = together.alone()[b];
      const GradientOutputs wanted = run_backward_reference(alone.c, alone.inputs, alone.gradients);
      CHECK(bit_difference(together.outputs(static_cast<std::int64_t>(b)), wanted,
                           {Gradient::dq, Gradient::dk, Gradient::dv}) == "");
      add(dalibi, wanted.dalibi.values());
      add(dsinks, wanted.dsinks.values());
    }
    check_close(together.outputs().dalibi.values(), dalibi);
    check_close(together.outputs().dsinks.values(), dsinks);
  }
}

TEST_CASE("Outputs of 16 bits are rounded once") {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    BackwardCase c = small_case();
    c.dq_type = c.dk_type = c.dv_type = dtype;
    c.call.layout = Layout::padded;
    const BackwardExample example(c);
    const GradientOutputs rounded = example.run();
    const GradientOutputs exact =
        run_backward_reference(with_gradients_in_double(c), example.inputs, example.gradients);
    for (const Gradient gradient : {Gradient::dq, Gradient::dk, Gradient::dv}) {
      StridedTensor expected(dtype, exact[gradient].shape());
      expected.assign(exact[gradient].values());
      CHECK(rounded[gradient].values() == expected.values());
      CHECK(rounded[gradient].gaps_untouched());
    }
  }
}
