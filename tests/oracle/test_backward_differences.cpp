// The reference's gradients against central differences of the reference.
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/backward_examples.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// sum dlse * lse over the rows whose lse depends on anything. lse of attention_reference() is f32,
/// so it is computed here, from the scores in double.
double loss_of_lse(const BackwardExample& example, const AttentionTensors& tensors) {
  const Case& call = example.c.call;
  StridedTensor scores(DType::f64, {call.batch, call.num_q_heads, call.q_len, call.kv_len});
  reference_scores(tensors, call.options, ScoreStage::masked, scores.view(), call.execution);
  const std::vector<double> s = scores.values(), dlse = example.gradients.dlse.values(),
                            sinks = example.inputs.sinks.values();
  double loss = 0;
  for (std::size_t row = 0; row < dlse.size(); ++row) {
    const std::size_t head = row / call.q_len % call.num_q_heads;
    double sum = sinks.empty() ? 0 : std::exp(sinks[head]);
    for (std::int64_t j = 0; j < call.kv_len; ++j) sum += std::exp(s[row * call.kv_len + j]);
    if (sum > 0) loss += dlse[row] * std::log(sum);
  }
  return loss;
}

/// The function whose gradients are asked for: sum dout * O + sum dlse * lse.
double loss_of(const BackwardExample& example) {
  Case call = example.c.call;
  call.out_type = DType::f64;
  call.lse = false;
  Outputs outputs = make_outputs(call);
  const AttentionTensors tensors = bind(example.inputs, outputs);
  attention_reference(tensors, call.options, call.execution);
  const double loss = dot(example.gradients.dout.values(), outputs.out.values());
  return example.gradients.dlse.values().empty() ? loss : loss + loss_of_lse(example, tensors);
}

/// The derivative with respect to one element, of the fourth order in `step`.
double central_difference(BackwardExample& example, StridedTensor& tensor, const Dims& index,
                          double value, double step) {
  const auto loss_at = [&](double steps) {
    tensor.set(index, value + steps * step);
    return loss_of(example);
  };
  const double difference =
      (8 * (loss_at(1) - loss_at(-1)) - (loss_at(2) - loss_at(-2))) / (12 * step);
  tensor.set(index, value);
  return difference;
}

/// How exact differences are. Where two of different steps do not agree, there is a kink nearby
/// (sparsemax and entmax have one where a key enters the support), and neither says anything.
struct Precision {
  double step = 0x1p-9;
  double tolerance = 1e-7;
};

struct Count {
  std::int64_t checked = 0, all = 0;
};

/// Differentiates with respect to each element of an input.
void check_gradient(BackwardExample& example, Gradient gradient, const GradientOutputs& got,
                    const Precision& precision, Count& count) {
  CAPTURE(name_of(gradient));
  const bool has_kinks = example.c.call.options.normalizer.kind() == Normalizer::Kind::entmax;
  StridedTensor& tensor = example.input_of(gradient);
  const std::vector<double> values = tensor.values(), gradients = got[gradient].values();
  std::size_t n = 0;
  for_each_index(tensor.shape(), [&](const Dims& index) {
    const double value = values[n], wanted = gradients[n];
    ++n;
    if (value == -infinity) {
      CHECK(wanted == 0);
      return;
    }
    const auto difference = [&](double step) {
      return central_difference(example, tensor, index, value, step);
    };
    const double fine = difference(precision.step / 2);
    const double allowed = precision.tolerance * std::max(1.0, std::abs(fine));
    ++count.all;
    if (has_kinks && std::abs(difference(precision.step) - fine) > allowed) return;
    ++count.checked;
    if (!(std::abs(wanted - fine) <= allowed)) {
      CAPTURE(index.to_string());
      CHECK(wanted == doctest::Approx(fine));
    }
  });
}

Count check_by_differences(const BackwardCase& c) {
  INFO(repeat_line(c));
  BackwardExample example(c);
  // A score_mod receives floats, whose rounding is divided by the step.
  const bool in_float = static_cast<bool>(c.call.options.score_mod);
  const Precision precision = in_float ? Precision{0x1p-5, 1e-4} : Precision{};
  const GradientOutputs got = example.run();
  Count count;
  for (const Gradient gradient : all_gradients) {
    if (wants(c, gradient)) check_gradient(example, gradient, got, precision, count);
  }
  return count;
}

/// Kinks are rare.
void check_by_differences(const std::vector<BackwardCase>& cases) {
  Count sum;
  for (const BackwardCase& c : cases) {
    const Count count = check_by_differences(c);
    sum.checked += count.checked;
    sum.all += count.all;
  }
  CHECK(static_cast<double>(sum.checked) > 0.97 * static_cast<double>(sum.all));
}

/// Each option by itself. The mask has the full shape; other shapes have a test of their own.
std::vector<BackwardCase> each_option() {
  std::vector<BackwardCase> all(15, small_case());
  const auto options = [&](std::size_t n) -> AttentionOptions& { return all[n].call.options; };
  all[1].dlse = false;
  options(2).causal = Causal::bottom_right();
  options(3).causal = Causal::with_offset(-1);
  options(4).window = Window{1, 0};
  options(5).softcap = 0.7f;
  all[6].call.alibi = true;
  all[7].call.mask = {.dtype = DType::boolean, .shape = {2, 4, 2, 4}, .hidden = 0.4};
  all[8].call.mask = {.dtype = DType::f32, .shape = {2, 4, 2, 4}, .hidden = 0.3};
  all[9].call.kv_lens = {0, 3};
  all[10].call.sinks = true;
  options(11).mask_mod = [](const KeyRun& run, bool* visible) {
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = (run.key_begin + n) % 3 != 1;
  };
  set_affine_score_mod(options(12));
  set_curved_score_mod(options(13));
  options(14).softmax_scale = -1.5f;
  return all;
}

}  // namespace

TEST_CASE("Each option alone, with each normalizer") {
  std::vector<BackwardCase> cases;
  for (const Normalizer& normalizer : normalizers()) {
    for (BackwardCase c : each_option()) {
      c.call.options.normalizer = normalizer;
      if (!c.call.sinks || takes_sinks(normalizer)) cases.push_back(c);
    }
  }
  check_by_differences(cases);
}

TEST_CASE("Masks of every rank, with every dim broadcast") {
  const Dims full{2, 4, 2, 4};
  for (int rank = 1; rank <= 4; ++rank) {
    for (int broadcast = 0; broadcast < (1 << rank); ++broadcast) {
      BackwardCase c = small_case();
      Dims shape(full.begin() + 4 - rank, rank);
      for (int dim = 0; dim < rank; ++dim) shape[dim] = (broadcast >> dim & 1) ? 1 : shape[dim];
      c.call.mask = {.dtype = DType::f32, .shape = shape, .hidden = 0.2};
      check_by_differences(c);
    }
  }
  BackwardCase shorter = small_case();
  shorter.call.mask = {.dtype = DType::f32, .shape = {2, 3}, .hidden = 0.2};
  check_by_differences(shorter);
}

TEST_CASE("Random combinations of options") {
  std::vector<BackwardCase> cases;
  for (const std::uint64_t seed : seeds(1, 80)) cases.push_back(random_small_case(seed));
  check_by_differences(cases);
}
