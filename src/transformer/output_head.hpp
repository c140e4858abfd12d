// Logits: the last projection, whose weight is used where it lies, as it may be the embedding as
// well.
#pragma once

#include <attn/tensor.hpp>

#include "iterate/execution.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

class OutputHead {
 public:
  /// weight [vocab_size, hidden], f32, bf16 or f16; copied only if a row's elements do not lie side
  /// by side.
  OutputHead(const TensorView& weight, const ResolvedExecution& resources);

  /// x f32 [rows, hidden], dense; logits f32 [rows, vocab_size], any stride between rows.
  void forward(const TensorView& x, const MutableTensorView& logits, Buffer& padded) const;
  /// As it is read.
  const TensorView& weight() const noexcept { return weight_; }
  /// Of a copy.
  std::size_t size_in_bytes() const noexcept { return copy_.size_in_bytes(); }

 private:
  ResolvedExecution resources_;
  Tensor copy_;
  TensorView weight_;
};

}  // namespace attn::detail
