// The implementation of TransformerLayer. A decoder calls it directly, on dense rows of tokens that
// have been checked.
#pragma once

#include <attn/transformer.hpp>

#include <memory>
#include <optional>

#include "transformer/attention_block.hpp"
#include "transformer/mlp.hpp"
#include "transformer/norm.hpp"

namespace attn {
namespace detail {

/// The norms around the attention or the MLP of a layer; those that the placement lacks are empty.
struct BranchNorms {
  std::optional<Norm> before, behind;
};

}  // namespace detail

struct TransformerLayer::Impl {
  using Linear = detail::Linear;
  using Norms = detail::BranchNorms;
  using TokenShape = detail::TokenShape;

  Impl(const LayerSettings& settings, const LayerWeights& weights, const Execution& execution,
       std::shared_ptr<ForwardScratch> scratch);
  /// Changes x [tokens, hidden], f32, in place. Arguments have been checked. If it throws, the
  /// appended keys are dropped and x is unspecified.
  void run(const MutableTensorView& x, const TokenShape& tokens, const CacheRef& cache,
           const ForwardOptions& options);

  LayerSettings settings;
  Norms attention_norms, mlp_norms;
  AttentionBlock::Impl attention;
  detail::Mlp mlp;

 private:
  template <class Branch>
  void add_branch(const Norms& norms, const MutableTensorView& x, DType operands,
                  const ForwardOptions& options, Branch&& branch);
  TensorView input_of(const Norms& norms, const TensorView& x, DType operands,
                      const ForwardOptions& options);
};

}  // namespace attn
