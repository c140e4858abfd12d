// What a rank computes with the blocks that come by: pieces of attention() and of
// attention_backward(), added up in the order in which they come.
#pragma once

#include <attn/state.hpp>

#include <atomic>
#include <span>
#include <vector>

#include "mpi/call.hpp"
#include "mpi/pieces.hpp"

namespace attn::mpi {

/// Memory that grows as needed.
class Scratch {
 public:
  /// A dense f32 tensor; what another one of the same number has held is lost.
  MutableTensorView tensor(std::size_t number, const Dims& shape);
  Workspace& workspace(std::size_t size);

 private:
  std::vector<Tensor> tensors_;
  std::optional<Workspace> workspace_;
};

/// O and lse of the rank's queries, over the keys that have come by: O in f32, lse in f64.
class ForwardSum {
 public:
  ForwardSum(const CutCall& call, const AttentionTensors& tensors);

  /// Adds what the queries see in a block. Ends between pieces when `stop` is true.
  void add(std::span<const Piece> pieces, const KeyBlock& block, const std::atomic<bool>& stop);
  /// O is not divided by anything more: sinks are not included.
  AttentionState state() noexcept { return {out_.view(), lse_.view()}; }

 private:
  void add_piece(const Piece& piece, const KeyBlock& block);

  const CutCall& call_;
  const AttentionTensors& tensors_;
  Tensor out_, lse_;
  Scratch scratch_;
};

/// Merges parts and the sinks into O and lse of the call.
void merge_with_sinks(std::vector<ConstAttentionState> parts, const AttentionTensors& tensors,
                      const Execution& execution);

/// dK and dV of a block, dense f32 [batch, num_kv_heads, keys, dim].
struct KeyGradients {
  MutableTensorView dk{}, dv{};
};

/// dQ, dmask and dalibi of the rank's queries, over the keys that have come by.
class BackwardSum {
 public:
  BackwardSum(const CutCall& call, const AttentionTensors& tensors,
              const AttentionGradients& gradients);

  /// Adds what the queries give a block to `to`, and what they get from it to the sums. Gradients
  /// of keys are computed only where `to` has them.
  void add(std::span<const Piece> pieces, const KeyBlock& block, const KeyGradients& to,
           const std::atomic<bool>& stop);

  TensorView dq() const noexcept { return dq_.view(); }
  Tensor& dmask() noexcept { return dmask_; }
  std::vector<double>& dalibi() noexcept { return dalibi_; }
  /// exp(sink - lse) (dlse - delta), summed over the rank's rows of each head.
  std::vector<double> dsinks() const;

 private:
  void add_piece(const Piece& piece, const KeyBlock& block, const KeyGradients& to);

  const CutCall& call_;
  const AttentionTensors& tensors_;
  const AttentionGradients& gradients_;
  Tensor dq_, dmask_;
  std::vector<double> dalibi_;
  Scratch scratch_;
};

}  // namespace attn::mpi
