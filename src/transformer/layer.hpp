// A layer's inside, as a decoder uses it.
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
  /// Throws unless the weights, which errors call `name`, are those of such a norm, [width]. Takes
  /// a copy, as f32.
  Norm(const char* name, const NormSettings& settings, const NormWeights& weights,
       std::int64_t width);
  /// y = norm(x), both [tokens, width].
  void apply(const TensorView& x, const MutableTensorView& y, const Execution& execution) const;

 private:
  NormSettings settings_;
  Tensor scale_;
  Tensor bias_;  // empty: none
};

/// Two projections and what stands between them.
class Mlp {
 public:
  Mlp(const LayerSettings& settings, const MlpWeights& weights, const Execution& execution,
      const ResolvedExecution& resources);
  /// y += mlp(x); x of operands(), y f32, both dense [tokens, hidden].
  void add(const TensorView& x, const MutableTensorView& y, ForwardScratch::Memory& memory) const;
  DType operands() const noexcept { return up_.operands(); }
  std::size_t size_in_bytes() const noexcept { return up_.size_in_bytes() + down_.size_in_bytes(); }

 private:
  void activate(const TensorView& hidden, const MutableTensorView& active) const;

  MlpKind kind_;
  std::int64_t width_;
  DType dtype_;
  Execution execution_;
  Linear up_;  // gate and up, or up alone
  Linear down_;
};

}  // namespace detail

struct TransformerLayer::Parts {
  using Norm = detail::Norm;
  using TokenShape = detail::TokenShape;

  Parts(const LayerSettings& settings, const LayerWeights& weights, const Execution& execution,
        std::shared_ptr<ForwardScratch> activations);
  /// x [tokens, hidden], f32. Checked. If it throws, the cache holds what it held, and x is
  /// unspecified.
  void run(const MutableTensorView& x, const TokenShape& tokens, const CacheRef& cache,
           const ForwardOptions& options);

  LayerSettings settings;
  Norm attention_norm, mlp_norm;
  AttentionBlock::Parts attention;
  detail::Mlp mlp;

 private:
  TensorView normed(const Norm& norm, const TensorView& x, DType dtype,
                    const ForwardOptions& options);
};

}  // namespace attn
