// Checks the engine's gradients against the reference, within tolerances that are derived for each
// case (src/oracle/backward_tolerance.hpp).
#pragma once

#include <string>

#include "support/backward_case.hpp"

namespace attn::test {

/// What a forward call leaves for the backward. For other normalizers than softmax it is empty.
Outputs run_forward(const BackwardCase& c, const Inputs& inputs);

/// The engine's gradients, in fresh memory.
GradientOutputs run_backward(const BackwardCase& c, const Inputs& inputs,
                             const GradientInputs& gradients, const Outputs& forward);
GradientOutputs run_backward(BackwardCase c, const Inputs& inputs, const GradientInputs& gradients,
                             const Outputs& forward, Isa isa);

/// The reference's gradients in f64, and how far from them the engine may be.
struct ExpectedGradients {
  GradientOutputs truth;
  // By Gradient: what passes, the error of the plain float program, and how far rounding may move
  // the gradient by derivation.
  double tolerance[6] = {}, plain_error[6] = {}, spread[6] = {};
};
ExpectedGradients expected_gradients(const BackwardCase& c, const Inputs& inputs,
                                     const GradientInputs& gradients, const Outputs& forward);

/// Empty if each element is within the tolerance, and nobody wrote to the gaps between elements.
/// Else it describes the largest error of the first gradient that is wrong.
std::string difference(const GradientOutputs& got, const ExpectedGradients& wanted);

/// Runs the case with each available ISA and checks the results.
void check_backward(const BackwardCase& c);
void check_backward(const BackwardCase& c, const Inputs& inputs, const GradientInputs& gradients);

}  // namespace attn::test
