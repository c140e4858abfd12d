// The output projection, from the last hidden states to logits. Its weight is not packed, because
// it may be the embedding as well, whose rows are read too.
#pragma once

#include <attn/tensor.hpp>

#include "iterate/execution.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

class OutputHead {
 public:
  /// weight [vocab_size, hidden], f32, bf16 or f16. It is copied only if the elements of a row are
  /// not contiguous; else it has to outlive this object.
  OutputHead(const TensorView& weight, const ResolvedExecution& resources);

  /// logits = x weight^T. x f32 [rows, hidden], dense; logits f32 [rows, vocab_size], any stride
  /// between rows. `padded` is scratch for rows of x filled up with zeros to whole vectors.
  void forward(const TensorView& x, const MutableTensorView& logits, Buffer& padded) const;
  /// The weight that forward() reads: the one given, or the copy.
  const TensorView& weight() const noexcept { return weight_; }
  /// Bytes of the copy, or 0.
  std::size_t size_in_bytes() const noexcept { return copy_.size_in_bytes(); }

 private:
  ResolvedExecution resources_;
  Tensor copy_;
  TensorView weight_;
};

}  // namespace attn::detail
