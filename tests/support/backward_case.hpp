// A call of attention_backward() as a value: a forward call, and which gradients come in and are
// wanted.
#pragma once

#include <attn/attention_backward.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "support/case.hpp"
#include "support/random.hpp"

namespace attn::test {

/// The gradients that a call writes, in the order of AttentionGradients.
enum class Gradient { dq, dk, dv, dmask, dalibi, dsinks };
inline constexpr std::initializer_list<Gradient> all_gradients = {
    Gradient::dq, Gradient::dk, Gradient::dv, Gradient::dmask, Gradient::dalibi, Gradient::dsinks};
std::string name_of(Gradient gradient);

struct BackwardCase {
  Case call{};  // `lse` says whether tensors.lse is given; softmax needs it
  DType dout_type = DType::f32;
  bool dlse = true;  // given where the normalizer has an lse
  DType dq_type = DType::f32;
  DType dk_type = DType::f32;
  DType dv_type = DType::f32;
  DType shared_type = DType::f32;    // of dmask, dalibi and dsinks; only the reference takes f64
  std::vector<Gradient> left_out{};  // of the gradients that the call could have
};

/// The same call with all gradients that it writes in f64, for the reference.
BackwardCase with_gradients_in_double(BackwardCase c);

std::string to_string(const BackwardCase& c);
std::string repeat_line(const BackwardCase& c);

/// Whether the call asks for a gradient: dmask needs an additive mask, dalibi slopes, and so on.
bool wants(const BackwardCase& c, Gradient gradient);

struct GradientInputs {
  StridedTensor dout, dlse;
};
/// Both are normally distributed. They follow from the call's seed.
GradientInputs make_gradient_inputs(const BackwardCase& c);

/// The tensors that a call writes, poisoned at first.
struct GradientOutputs {
  StridedTensor dq, dk, dv, dmask, dalibi, dsinks;

  StridedTensor& operator[](Gradient gradient);
  const StridedTensor& operator[](Gradient gradient) const;
};
GradientOutputs make_gradient_outputs(const BackwardCase& c);

AttentionGradients bind(const GradientInputs& inputs, GradientOutputs& outputs);

/// Gradients by the reference, in the types and the layout of the case.
GradientOutputs run_backward_reference(const BackwardCase& c, const Inputs& inputs,
                                       const GradientInputs& gradients);

/// What the masks of a call leave: 1 or 0 for each row of Q [batch, num_q_heads, q_len] that sees a
/// key, and for each key [batch, num_kv_heads, kv_len] that a query of its heads sees.
struct Seen {
  StridedTensor rows, keys;
};
Seen seen_by_masks(const BackwardCase& c, const Inputs& inputs);

/// Writes a number where nothing may be read into a gradient: K and V of unseen keys; Q, dout and,
/// without a sink, dlse of rows without keys. Returns how many keys and rows these are.
std::int64_t poison_unseen(const Seen& seen, Inputs& inputs, GradientInputs& gradients,
                           double poison);
/// Whether dq of rows without keys, dk and dv of unseen keys, and dmask at elements of -inf are 0.
bool unseen_are_zero(const Seen& seen, const Inputs& inputs, const GradientOutputs& outputs);

/// Empty if both hold the same bits; else it describes the first difference.
std::string bit_difference(const GradientOutputs& a, const GradientOutputs& b,
                           std::initializer_list<Gradient> gradients = all_gradients);

/// Score functions with their derivatives, for options.score_mod and score_mod_gradient: an affine
/// one, and a curved one that also gives some keys a score of -inf.
void set_affine_score_mod(AttentionOptions& options);
void set_curved_score_mod(AttentionOptions& options);

}  // namespace attn::test
