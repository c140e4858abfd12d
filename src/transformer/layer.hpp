// The implementation of TransformerLayer. A decoder calls it directly, on dense rows of tokens that
// have been checked.
#pragma once

#include <attn/transformer.hpp>

#include <memory>
#include <optional>

#include "transformer/attention_block.hpp"
#include "transformer/linear.hpp"

namespace attn {
namespace detail {

class Norm {
 public:
  /// Copies the weights, each [width], as f32. Throws Error(invalid_argument), which calls them
  /// `name`, if they do not fit.
  Norm(const char* name, const NormSettings& settings, const NormWeights& weights,
       std::int64_t width);
  /// y = norm(x), both [tokens, width].
  void apply(const TensorView& x, const MutableTensorView& y, const Execution& execution) const;

 private:
  NormSettings settings_;
  Tensor scale_;
  Tensor bias_;  // empty if the norm has none
};

/// The MLP of a layer: two projections with an activation between them.
class Mlp {
 public:
  Mlp(const LayerSettings& settings, const MlpWeights& weights, const Execution& execution,
      const ResolvedExecution& resources);
  /// y += mlp(x). x of type operands(), y f32, both dense [tokens, hidden].
  void add(const TensorView& x, const MutableTensorView& y, ForwardScratch::Memory& memory) const;
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

}  // namespace detail

struct TransformerLayer::Impl {
  using Norm = detail::Norm;
  using TokenShape = detail::TokenShape;

  Impl(const LayerSettings& settings, const LayerWeights& weights, const Execution& execution,
       std::shared_ptr<ForwardScratch> scratch);
  /// Changes x [tokens, hidden], f32, in place. Arguments have been checked. If it throws, the
  /// appended keys are dropped and x is unspecified.
  void run(const MutableTensorView& x, const TokenShape& tokens, const CacheRef& cache,
           const ForwardOptions& options);

  LayerSettings settings;
  Norm attention_norm, mlp_norm;
  AttentionBlock::Impl attention;
  detail::Mlp mlp;

 private:
  TensorView normed(const Norm& norm, const TensorView& x, DType dtype,
                    const ForwardOptions& options);
};

}  // namespace attn
