// The MLP of a layer: two projections with an activation between them.
#pragma once

#include <attn/transformer.hpp>

#include "cache/cache_ref.hpp"
#include "transformer/linear.hpp"

namespace attn::detail {

class Mlp {
 public:
  Mlp(const LayerSettings& settings, const MlpWeights& weights, const Execution& execution,
      const ResolvedExecution& resources);
  /// y = mlp(x), or y += mlp(x). x of type operands(), y f32, both dense [tokens, hidden].
  void forward(const TensorView& x, const TokenShape& tokens, const MutableTensorView& y,
               Linear::Result result, ForwardScratch::Memory& memory) const;
  DType operands() const noexcept { return up_.operands(); }
  std::size_t size_in_bytes() const noexcept { return up_.size_in_bytes() + down_.size_in_bytes(); }

 private:
  void activate(const TensorView& hidden, const MutableTensorView& active) const;

  MlpKind kind_;
  std::int64_t width_;
  DType dtype_;
  Execution execution_;
  Linear up_;  // the outputs of gate, if there is one, then those of up
  Linear down_;
};

}  // namespace attn::detail
