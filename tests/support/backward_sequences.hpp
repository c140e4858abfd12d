// Gradients of sequences of different lengths in one call, and of each sequence alone in a plain
// call.
#pragma once

#include <cstdint>
#include <vector>

#include "support/backward_case.hpp"
#include "support/sequences.hpp"

namespace attn::test {

/// One sequence in a plain call of batch 1.
struct BackwardAlone {
  BackwardCase c;
  Inputs inputs;
  GradientInputs gradients;
};

class BackwardTogether {
 public:
  /// `common` has the settings that all sequences share. Keys are padded or ragged.
  BackwardTogether(const BackwardCase& common, Sequences sequences);

  const std::vector<BackwardAlone>& alone() const { return alone_; }
  const AttentionOptions& options() const { return together_.options(); }
  /// The forward call, with fresh outputs.
  AttentionTensors tensors() { return together_.tensors(); }
  /// The gradients, with fresh outputs.
  AttentionGradients gradients();
  /// What the call wrote.
  const GradientOutputs& outputs() const { return outputs_; }
  /// Its dq, dk and dv for a sequence, in the shapes of a plain call.
  GradientOutputs outputs(std::int64_t sequence) const;
  /// Whether the gradients of padded keys that no sequence has are 0.
  bool padding_is_zero() const;

 private:
  Dims query_shape(std::int64_t width) const;
  Dims key_shape(std::int64_t width) const;
  /// The part of a tensor of rows of Q, or of keys, that belongs to a sequence.
  template <class Void>
  BasicTensorView<Void> queries_of(const BasicTensorView<Void>& tensor,
                                   std::int64_t sequence) const;
  TensorView keys_of(const TensorView& tensor, std::int64_t sequence) const;

  BackwardCase common_;  // with the sizes of the call
  Sequences sequences_;
  Together together_;
  std::vector<BackwardAlone> alone_;
  GradientInputs gradients_;
  GradientOutputs outputs_;
};

}  // namespace attn::test
