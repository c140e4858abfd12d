// What does not change a bit of the engine's gradients: the number of threads, other entries of the
// batch, whatever hidden keys and rows without keys hold, and which other gradients are wanted.
#include <attn/attention_backward.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/backward_check.hpp"
#include "support/backward_sequences.hpp"
#include "support/random_backward_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Calls with several columns of keys and blocks of rows.
std::vector<BackwardCase> large_cases() {
  BackwardCase plain{.call = {.num_q_heads = 2, .q_len = 300, .kv_len = 700, .head_dim = 16}};
  BackwardCase full{
      .call = {
          .batch = 3,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 110,
          .kv_len = 300,
          .head_dim = 24,
          .options = {.softcap = 8.f, .causal = Causal::bottom_right(), .window = Window{190, {}}},
          .mask = DenseMask{.dtype = DType::f32, .shape = {3, 1, 110, 300}},
          .alibi = true,
          .sinks = true,
          .kv_lens = {300, 100, 0}}};
  BackwardCase bf16 = full, shared_mask = full, last_keys = full, sigmoid = full, sparse = full,
               long_keys = plain;
  bf16.call.q_type = bf16.call.kv_type = bf16.call.out_type = bf16.dout_type = DType::bf16;
  shared_mask.call.mask = DenseMask{.dtype = DType::f32, .shape = {1, 300}, .hidden = 0.1};
  last_keys.call.mask = DenseMask{.dtype = DType::f32, .shape = {110, 200}, .hidden = 0.1};
  last_keys.call.options.mask_keys = MaskKeys::last;
  last_keys.call.kv_lens = {300, 100, 230};
  sigmoid.call.options.normalizer = Normalizer::sigmoid();
  sigmoid.call.sinks = false;
  sparse.call.options.normalizer = Normalizer::entmax(1.5f);
  long_keys.call.q_len = 3;
  long_keys.call.kv_len = 3000;
  return {plain, full, bf16, shared_mask, last_keys, sigmoid, sparse, long_keys};
}

template <class F>
void for_each_case_and_isa(const std::vector<BackwardCase>& cases, F f) {
  for (BackwardCase c : cases) {
    for (const Isa isa : available_isas()) {
      c.call.execution.isa = isa;
      INFO(repeat_line(c));
      CAPTURE(std::string(name_of(isa)));
      f(c);
    }
  }
}

std::vector<BackwardCase> random_cases(std::uint64_t count) {
  std::vector<BackwardCase> cases;
  for (const std::uint64_t seed : seeds(1, count)) cases.push_back(random_backward_case(seed));
  return cases;
}

/// Replaces the numbers of one batch entry of a tensor [batch, ...].
void fill_entry(StridedTensor& tensor, std::int64_t entry, double value) {
  if (tensor.view_if_made().absent()) return;
  for_each_index(tensor.shape(), [&](const Dims& at) {
    if (at[0] == entry) tensor.set(at, value);
  });
}

/// Of the bits of two tensors [batch, ...], those of one entry.
bool same_entry(const StridedTensor& a, const StridedTensor& b, std::int64_t entry) {
  const std::vector<std::uint64_t> left = a.bits(), right = b.bits();
  if (left.empty()) return right.empty();
  const std::size_t width = left.size() / static_cast<std::size_t>(a.shape()[0]);
  const auto begin = static_cast<std::ptrdiff_t>(width * static_cast<std::size_t>(entry));
  const auto end = begin + static_cast<std::ptrdiff_t>(width);
  return std::equal(left.begin() + begin, left.begin() + end, right.begin() + begin);
}

/// What all sequences of a call share. The lengths of keys are those of each sequence.
BackwardCase common_case(std::uint64_t seed) {
  BackwardCase common = random_backward_case(seed);
  common.call.options.block_mask.reset();  // sequences of different lengths have none in common
  common.call.kv_lens.clear();
  common.call.lse = common.call.options.normalizer == Normalizer::softmax();
  return common;
}

/// With a mask of its own for each entry, queries are padded. No sequence has more keys than a mask
/// is made for.
Sequences random_lengths(Random& random, const BackwardCase& common, KeyForm form) {
  const Case& call = common.call;
  Sequences sequences;
  sequences.key_form = form;
  sequences.ragged_queries = !call.mask;
  for (std::int64_t b = 0; b < call.batch; ++b) {
    sequences.q_lens.push_back(call.mask ? call.q_len : random.integer(0, 90));
    sequences.kv_lens.push_back(random.integer(0, call.mask ? call.kv_len : 120));
  }
  if (call.mask) sequences.kv_lens.back() = call.kv_len;
  return sequences;
}

void run_together(BackwardTogether& together, const BackwardCase& common) {
  const AttentionTensors tensors = together.tensors();
  attention(tensors, together.options(), common.call.execution);
  attention_backward(tensors, together.gradients(), together.options(), common.call.execution);
}

}  // namespace

TEST_CASE("Any number of threads, and again") {
  for_each_case_and_isa(large_cases(), [](BackwardCase c) {
    const Inputs inputs = make_inputs(c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    const Outputs forward = run_forward(c, inputs);
    c.call.execution.num_threads = 1;
    const GradientOutputs expected = run_backward(c, inputs, gradients, forward);
    for (const int num_threads : {2, 3, 7, 2}) {
      c.call.execution.num_threads = num_threads;
      CHECK(bit_difference(run_backward(c, inputs, gradients, forward), expected) == "");
    }
    c.call.execution.num_threads.reset();
    CHECK(bit_difference(run_backward(c, inputs, gradients, forward), expected) == "");
  });
}

TEST_CASE("Any number of threads, in random calls") {
  for_each_case_and_isa(random_cases(40), [](BackwardCase c) {
    const Inputs inputs = make_inputs(c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    const Outputs forward = run_forward(c, inputs);
    c.call.execution.num_threads = 1;
    const GradientOutputs expected = run_backward(c, inputs, gradients, forward);
    c.call.execution.num_threads = 3;
    CHECK(bit_difference(run_backward(c, inputs, gradients, forward), expected) == "");
  });
}

TEST_CASE("Other entries of the batch") {
  std::vector<BackwardCase> cases = large_cases();
  for (const BackwardCase& c : random_cases(30)) cases.push_back(c);
  for_each_case_and_isa(cases, [](const BackwardCase& c) {
    Inputs inputs = make_inputs(c.call);
    GradientInputs gradients = make_gradient_inputs(c);
    const GradientOutputs expected = run_backward(c, inputs, gradients, run_forward(c, inputs));
    const std::int64_t kept = c.call.batch - 1;
    for (std::int64_t b = 0; b < kept; ++b) {
      const double value = b % 2 == 0 ? std::nan("") : 1e4;
      for (StridedTensor* tensor : {&inputs.q, &inputs.k, &inputs.v, &gradients.dout})
        fill_entry(*tensor, b, value);
    }
    const GradientOutputs got = run_backward(c, inputs, gradients, run_forward(c, inputs));
    for (const Gradient gradient : {Gradient::dq, Gradient::dk, Gradient::dv}) {
      CAPTURE(name_of(gradient));
      if (wants(c, gradient)) CHECK(same_entry(got[gradient], expected[gradient], kept));
    }
  });
}

TEST_CASE("Hidden keys and rows without keys have gradients of 0, whatever they hold") {
  std::vector<BackwardCase> cases = large_cases();
  for (const BackwardCase& c : random_cases(60)) cases.push_back(c);
  const double poisons[] = {std::nan(""), std::numeric_limits<double>::infinity(),
                            -std::numeric_limits<double>::infinity(), 3e38, -1e30};
  std::int64_t unseen = 0;
  std::size_t turn = 0;
  for_each_case_and_isa(cases, [&](const BackwardCase& c) {
    Inputs inputs = make_inputs(c.call);
    GradientInputs gradients = make_gradient_inputs(c);
    const Outputs forward = run_forward(c, inputs);
    const Seen seen = seen_by_masks(c, inputs);
    const GradientOutputs expected = run_backward(c, inputs, gradients, forward);
    CHECK(unseen_are_zero(seen, inputs, expected));
    unseen += poison_unseen(seen, inputs, gradients, poisons[turn++ % std::size(poisons)]);
    CHECK(bit_difference(run_backward(c, inputs, gradients, forward), expected) == "");
  });
  CHECK(unseen > 1000);
}

TEST_CASE("Each gradient by itself") {
  for_each_case_and_isa(random_cases(40), [](BackwardCase c) {
    const Inputs inputs = make_inputs(c.call);
    const GradientInputs gradients = make_gradient_inputs(c);
    const Outputs forward = run_forward(c, inputs);
    c.left_out.clear();
    const GradientOutputs all = run_backward(c, inputs, gradients, forward);
    for (const Gradient gradient : all_gradients) {
      BackwardCase alone = c;
      for (const Gradient other : all_gradients) {
        if (other != gradient) alone.left_out.push_back(other);
      }
      CAPTURE(name_of(gradient));
      const GradientOutputs got = run_backward(alone, inputs, gradients, forward);
      CHECK(bit_difference(got, all, {gradient}) == "");
    }
  });
}

/// Checks the gradients of a sequence against those that it has alone, and returns these.
GradientOutputs check_as_alone(const BackwardTogether& together, std::size_t sequence) {
  const BackwardAlone& alone = together.alone()[sequence];
  GradientOutputs wanted =
      run_backward(alone.c, alone.inputs, alone.gradients, run_forward(alone.c, alone.inputs));
  CAPTURE(sequence);
  CHECK(bit_difference(together.outputs(static_cast<std::int64_t>(sequence)), wanted,
                       {Gradient::dq, Gradient::dk, Gradient::dv}) == "");
  return wanted;
}

TEST_CASE("Sequences of different lengths have the bits that each has alone") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    const BackwardCase common = common_case(seed);
    Random random(seed);
    const Sequences sequences =
        random_lengths(random, common, random.pick({KeyForm::padded, KeyForm::ragged}));
    BackwardTogether together(common, sequences);
    INFO(repeat_line(common));
    INFO(to_string(sequences));
    run_together(together, common);
    CHECK(together.padding_is_zero());
    for (std::size_t b = 0; b < together.alone().size(); ++b) check_as_alone(together, b);
  }
}

/// The sum of dmask over sequences alone, whose masks have a column for each key, and of
/// magnitudes.
struct MaskSum {
  explicit MaskSum(const Dims& shape)
      : sum(static_cast<std::size_t>(shape.product())), magnitude(sum.size()) {}

  std::vector<double> sum, magnitude;
};

/// Adds what a sequence alone gives to the elements of the common mask.
void add_alone(const BackwardCase& common, const Sequences& sequences, std::int64_t sequence,
               const StridedTensor& alone, MaskSum& dmask) {
  const Dims& shape = common.call.mask->shape;
  const int last = shape.rank() - 1;
  const auto index = static_cast<std::size_t>(sequence);
  std::int64_t first_token = 0, first_key = 0;
  for (std::size_t b = 0; b < index; ++b) first_token += sequences.q_lens[b];
  if (common.call.options.mask_keys == MaskKeys::last)
    first_key = sequences.kv_lens[index] - shape[last];
  const std::vector<double> values = alone.values();
  std::size_t n = 0;
  for_each_index(alone.shape(), [&](Dims at) {
    const double value = values[n++];
    at[last] -= first_key;
    if (last > 0 && shape[last - 1] > 1) at[last - 1] += first_token;
    if (at[last] < 0) return;
    const auto element = static_cast<std::size_t>(offset_of(dense_strides(shape), at));
    dmask.sum[element] += value;
    dmask.magnitude[element] += std::abs(value);
  });
}

TEST_CASE("Sequences with a mask of ragged queries have the gradients that each has alone") {
  for (const std::uint64_t seed : seeds(1, 80)) {
    Random random(seed);
    BackwardCase common = common_case(seed);
    common.call.mask.reset();
    common.call.options.mask_keys = MaskKeys::first;
    common.left_out.clear();
    Sequences sequences =
        random_lengths(random, common, random.pick({KeyForm::padded, KeyForm::ragged}));
    std::int64_t tokens = 0;
    for (const std::int64_t q_len : sequences.q_lens) tokens += q_len;
    common.call.kv_len = *std::max_element(sequences.kv_lens.begin(), sequences.kv_lens.end());
    choose_mask(random, common.call, tokens);
    if (common.call.mask->dtype == DType::boolean) common.call.mask->dtype = DType::f32;
    BackwardTogether together(common, sequences);
    INFO(repeat_line(common));
    INFO(to_string(sequences));
    run_together(together, common);
    MaskSum dmask(common.call.mask->shape);
    for (std::size_t b = 0; b < together.alone().size(); ++b) {
      const GradientOutputs wanted = check_as_alone(together, b);
      add_alone(common, sequences, static_cast<std::int64_t>(b), wanted.dmask, dmask);
    }
    // Each sequence alone rounds its sum, and so does the call.
    const std::vector<double> got = together.outputs().dmask.values();
    for (std::size_t n = 0; n < got.size(); ++n) {
      CAPTURE(n);
      const double error = std::abs(got[n] - dmask.sum[n]);
      CHECK(error <= 0x1p-23 * dmask.magnitude[n] + 1e-40);
    }
  }
}

TEST_CASE("Padded and ragged keys give the same bits, in what sequences share too") {
  for (const std::uint64_t seed : seeds(1, 60)) {
    const BackwardCase common = common_case(seed);
    Random first(seed), second(seed);
    const Sequences sequences = random_lengths(first, common, KeyForm::padded);
    BackwardTogether padded(common, sequences),
        ragged(common, random_lengths(second, common, KeyForm::ragged));
    INFO(repeat_line(common));
    INFO(to_string(sequences));
    run_together(padded, common);
    run_together(ragged, common);
    CHECK(bit_difference(padded.outputs(), ragged.outputs(),
                         {Gradient::dq, Gradient::dmask, Gradient::dalibi, Gradient::dsinks}) ==
          "");
  }
}
