// The reference's gradients against central differences of the reference.
#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/backward_case.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
const double not_a_number = std::nan("");

/// A backward call in double that owns its inputs.
struct Example {
  explicit Example(const BackwardCase& backward)
      : c(backward), inputs(make_inputs(c.call)), gradients(make_gradient_inputs(c)) {
    // These are f32. Multiples of the steps below have a neighbor on either side at exactly a step.
    for (StridedTensor* tensor : {&inputs.mask, &inputs.alibi_slopes, &inputs.sinks}) {
      std::vector<double> values = tensor->values();
      for (double& value : values) value = std::round(value * 0x1p12) * 0x1p-12;
      tensor->assign(values);
    }
  }

  GradientOutputs run() const { return run_backward_reference(c, inputs, gradients); }
  StridedTensor& input_of(Gradient gradient) {
    StridedTensor* const all[] = {
        &inputs.q, &inputs.k, &inputs.v, &inputs.mask, &inputs.alibi_slopes, &inputs.sinks};
    return *all[static_cast<std::size_t>(gradient)];
  }

  BackwardCase c;
  Inputs inputs;
  GradientInputs gradients;
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t n = 0; n < a.size(); ++n) sum += a[n] * b[n];
  return sum;
}

/// sum dlse * lse over the rows whose lse depends on anything. lse of attention_reference() is f32,
/// so it is computed here, from the scores in double.
double loss_of_lse(const Example& example, const AttentionTensors& tensors) {
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
double loss_of(const Example& example) {
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
double central_difference(Example& example, StridedTensor& tensor, const Dims& index, double value,
                          double step) {
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
void check_gradient(Example& example, Gradient gradient, const GradientOutputs& got,
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
  Example example(c);
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

BackwardCase small_case(std::uint64_t seed = 1) {
  return {.call = {.batch = 2,
                   .num_q_heads = 4,
                   .num_kv_heads = 2,
                   .q_len = 2,
                   .kv_len = 4,
                   .head_dim = 2,
                   .v_head_dim = 3,
                   .q_type = DType::f64,
                   .kv_type = DType::f64,
                   .execution = {.num_threads = 1},
                   .lse = false,
                   .seed = seed},
          .dout_type = DType::f64};
}

const std::vector<Normalizer>& normalizers() {
  static const std::vector<Normalizer> all = {
      Normalizer::softmax(),    Normalizer::sigmoid(),    Normalizer::sigmoid(-0.5f),
      Normalizer::sparsemax(),  Normalizer::entmax(1.1f), Normalizer::entmax(1.5f),
      Normalizer::entmax(1.7f), Normalizer::entmax(2.5f), Normalizer::entmax(4.f)};
  return all;
}

bool takes_sinks(const Normalizer& normalizer) {
  return normalizer.kind() != Normalizer::Kind::sigmoid;
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

BackwardCase random_case(std::uint64_t seed) {
  Random random(seed);
  BackwardCase c = small_case(seed);
  Case& call = c.call;
  call.batch = random.integer(1, 2);
  call.num_kv_heads = random.integer(1, 2);
  call.num_q_heads = call.num_kv_heads * random.integer(1, 3);
  call.q_len = random.integer(1, 4);
  call.kv_len = random.integer(1, 6);
  call.head_dim = random.integer(1, 3);
  call.v_head_dim = random.integer(1, 3);
  call.layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded, Layout::reversed});
  AttentionOptions& options = call.options;
  options.normalizer = normalizers()[random.chance(0.5) ? 0 : random.integer(1, 8)];
  if (random.chance(0.3)) options.softcap = 1.5f;
  if (random.chance(0.4)) options.causal = Causal::with_offset(random.integer(-2, 4));
  if (random.chance(0.3)) options.window = Window{random.integer(0, 3), {}};
  if (random.chance(0.2)) set_affine_score_mod(options);
  call.alibi = random.chance(0.4);
  call.sinks = takes_sinks(options.normalizer) && random.chance(0.4);
  if (random.chance(0.4)) {
    Dims shape{call.batch, call.num_q_heads, call.q_len, random.integer(1, call.kv_len)};
    for (int dim = 0; dim < 3; ++dim) shape[dim] = random.chance(0.5) ? 1 : shape[dim];
    call.mask = {.dtype = DType::f32, .shape = shape, .hidden = 0.3};
  }
  if (random.chance(0.3)) {
    for (std::int64_t b = 0; b < call.batch; ++b)
      call.kv_lens.push_back(random.integer(0, call.kv_len));
  }
  c.dlse = random.chance(0.7);
  return c;
}

bool all_zero(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double value) { return value == 0; });
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
  for (const std::uint64_t seed : seeds(1, 80)) cases.push_back(random_case(seed));
  check_by_differences(cases);
}

TEST_CASE("One query and two keys, by hand") {
  // P is a quarter and three quarters, O is 7, and dS = P (V - O).
  BackwardCase c = small_case();
  c.call.batch = c.call.num_q_heads = c.call.num_kv_heads = c.call.q_len = 1;
  c.call.kv_len = 2;
  c.call.head_dim = 1;
  c.call.v_head_dim = 1;
  c.call.options.softmax_scale = 2.f;
  c.dlse = false;
  Example example(c);
  example.inputs.q.assign({0.5});
  example.inputs.k.assign({0, std::log(3)});
  example.inputs.v.assign({4, 8});
  example.gradients.dout.assign({1});
  const GradientOutputs got = example.run();
  const auto check = [](const StridedTensor& tensor, const std::vector<double>& wanted) {
    const std::vector<double> values = tensor.values();
    for (std::size_t n = 0; n < wanted.size(); ++n)
      CHECK(values[n] == doctest::Approx(wanted[n]).epsilon(1e-12));
  };
  check(got.dq, {2 * 0.75 * std::log(3)});
  check(got.dk, {2 * -0.75 * 0.5, 2 * 0.75 * 0.5});
  check(got.dv, {0.25, 0.75});
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
      Example example(c), poisoned(c);
      CHECK(poison_hidden(c, poisoned.inputs, poisoned.gradients, not_a_number) > 0);
      const GradientOutputs got = example.run();
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
  Example example(c);
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
    BackwardCase c = random_case(seed);
    c.call.q_len = 100;  // more rows than are differentiated at once
    c.call.mask.reset();
    INFO(repeat_line(c));
    const Example example(c);
    const GradientOutputs expected = example.run();
    for (const int threads : {2, 3, 7}) {
      Example other(c);
      other.c.call.execution.num_threads = threads;
      CHECK(bit_difference(expected, other.run()) == "");
    }
    for (const Gradient gradient : all_gradients) {
      if (!wants(c, gradient)) continue;
      Example other(c);
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
  Example zeros(c);
  zeros.gradients.dlse.assign(std::vector<double>(16, 0.0));
  c.dlse = false;
  CHECK(bit_difference(Example(c).run(), zeros.run()) == "");
}

TEST_CASE("Outputs of 16 bits are rounded once") {
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    BackwardCase c = small_case();
    c.dq_type = c.dk_type = c.dv_type = dtype;
    c.call.layout = Layout::padded;
    const Example example(c);
    GradientOutputs rounded = make_gradient_outputs(c);
    Outputs none;
    AttentionTensors tensors = bind(example.inputs, none);
    tensors.out = {};
    attention_backward_reference(tensors, bind(example.gradients, rounded), c.call.options);
    const GradientOutputs exact = example.run();
    for (const Gradient gradient : {Gradient::dq, Gradient::dk, Gradient::dv}) {
      StridedTensor expected(dtype, exact[gradient].shape());
      expected.assign(exact[gradient].values());
      CHECK(rounded[gradient].values() == expected.values());
      CHECK(rounded[gradient].gaps_untouched());
    }
  }
}
