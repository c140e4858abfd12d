#include "support/backward_check.hpp"

#include <doctest/doctest.h>

#include "oracle/backward_tolerance.hpp"
#include "support/check.hpp"

namespace attn::test {
namespace {

bool is_softmax(const BackwardCase& c) {
  return c.call.options.normalizer == Normalizer::softmax();
}

/// Inputs of the call with O and lse of the forward, where it has them.
AttentionTensors bind_forward(const BackwardCase& c, const Inputs& inputs, const Outputs& forward) {
  Outputs results = forward;
  AttentionTensors tensors = bind(inputs, results);
  // Neither is written, and the views must outlive this function.
  tensors.out = const_cast<Outputs&>(forward).out.view_if_made();
  tensors.lse = const_cast<Outputs&>(forward).lse.view_if_made();
  if (!is_softmax(c)) tensors.out = tensors.lse = {};
  return tensors;
}

}  // namespace

Outputs run_forward(const BackwardCase& c, const Inputs& inputs) {
  if (!is_softmax(c)) return {};
  Case call = c.call;
  call.lse = true;
  return run(inputs, call);
}

GradientOutputs run_backward(const BackwardCase& c, const Inputs& inputs,
                             const GradientInputs& gradients, const Outputs& forward) {
  GradientOutputs outputs = make_gradient_outputs(c);
  attention_backward(bind_forward(c, inputs, forward), bind(gradients, outputs), c.call.options,
                     c.call.execution);
  return outputs;
}

GradientOutputs run_backward(BackwardCase c, const Inputs& inputs, const GradientInputs& gradients,
                             const Outputs& forward, Isa isa) {
  c.call.execution.isa = isa;
  return run_backward(c, inputs, gradients, forward);
}

ExpectedGradients expected_gradients(const BackwardCase& c, const Inputs& inputs,
                                     const GradientInputs& gradients, const Outputs& forward) {
  BackwardCase in_double = with_gradients_in_double(c);
  in_double.call.layout = Layout::bhsd;
  ExpectedGradients expected{run_backward_reference(in_double, inputs, gradients)};
  GradientOutputs stored = make_gradient_outputs(c);
  const detail::BackwardTolerance tolerance =
      detail::derive_backward_tolerance(bind_forward(c, inputs, forward), bind(gradients, stored),
                                        bind(gradients, expected.truth), c.call.options);
  const detail::GradientTolerance* const all[] = {&tolerance.dq,     &tolerance.dk,
                                                  &tolerance.dv,     &tolerance.dmask,
                                                  &tolerance.dalibi, &tolerance.dsinks};
  for (const Gradient gradient : all_gradients) {
    const auto n = static_cast<std::size_t>(gradient);
    expected.tolerance[n] = all[n]->allowed;
    expected.plain_error[n] = all[n]->plain_error;
    expected.spread[n] = all[n]->spread;
  }
  return expected;
}

std::string difference(const GradientOutputs& got, const ExpectedGradients& wanted) {
  for (const Gradient gradient : all_gradients) {
    if (!got[gradient].gaps_untouched())
      return name_of(gradient) + ": written between its elements";
    const std::string text = difference(got[gradient].values(), wanted.truth[gradient].values(),
                                        wanted.tolerance[static_cast<std::size_t>(gradient)]);
    if (!text.empty()) return name_of(gradient) + ": " + text;
  }
  return "";
}

void check_backward(const BackwardCase& c) {
  check_backward(c, make_inputs(c.call), make_gradient_inputs(c));
}

void check_backward(const BackwardCase& c, const Inputs& inputs, const GradientInputs& gradients) {
  INFO(repeat_line(c));
  const Outputs forward = run_forward(c, inputs);
  const ExpectedGradients expected = expected_gradients(c, inputs, gradients, forward);
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    CHECK(difference(run_backward(c, inputs, gradients, forward, isa), expected) == "");
  }
}

}  // namespace attn::test
