// The implementation of AttentionBlock. A layer calls it directly, on dense rows of tokens that
// have been checked.
#pragma once

#include <attn/transformer.hpp>

#include <memory>
#include <optional>
#include <utility>

#include "cache/cache_ref.hpp"
#include "transformer/forward_scratch.hpp"
#include "transformer/linear.hpp"

namespace attn {
struct AttentionBlock::Impl {
  using ResolvedExecution = detail::ResolvedExecution;
  using Linear = detail::Linear;
  using TokenShape = detail::TokenShape;

  Impl(const AttentionSettings& settings, const AttentionParameters& weights,
       const Execution& execution, std::shared_ptr<ForwardScratch> scratch);

  /// Throws Error unless a forward of such tokens fits this block and its cache. Changes nothing.
  void check(const TokenShape& tokens, const CacheRef& cache, const ForwardOptions& options) const;
  /// x [tokens, hidden] of type qkv.operands(), y [tokens, hidden] f32 (or bf16 to be replaced); y
  /// may be the memory of x. Arguments have been checked. If it throws, the appended keys are
  /// dropped.
  void run(const TensorView& x, const TokenShape& tokens, const CacheRef& cache,
           const MutableTensorView& y, Linear::Result result, const ForwardOptions& options);

  AttentionSettings settings;
  Tensor q_norm, k_norm;  // f32 [head_dim]; empty if the block has no such norm
  TensorView alibi_slopes, sinks;
  AttentionOptions padded_options;  // of forwards with kv_lens
  Execution execution;
  ResolvedExecution resources;
  std::shared_ptr<ForwardScratch> scratch;
  std::shared_ptr<const RopeTables> rope;  // null if positions are not rotated
  Linear qkv, out;

 private:
  /// q, k and v of the new tokens, [batch, heads, seq, head_dim]: views of one buffer.
  struct Heads {
    MutableTensorView q, k, v;
  };
  Heads heads_of(const MutableTensorView& qkv_rows, const TokenShape& tokens) const;
  void check_visibility(const TokenShape& tokens, const CacheRef& cache,
                        const ForwardOptions& options) const;
  void check_padding(const TokenShape& tokens, const CacheRef& cache,
                     const TensorView& kv_lens) const;
  TensorView position_ids(const TokenShape& tokens, const CacheRef& cache);
  void normalize_and_rotate(const Heads& heads, const TokenShape& tokens, const CacheRef& cache);
  AttentionTensors call_of(const Heads& heads, const CacheRef& cache,
                           const ForwardOptions& options);
  TensorView append_and_attend(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                               const ForwardOptions& options, TokenShape& appended);
  void attend(const AttentionTensors& tensors, const ForwardOptions& options);

  /// The last plan and the call that it was made for. Decode steps have the same shapes, so most
  /// of them use it again.
  struct Planned {
    bool padded;  // whether it was made with padded_options
    AttentionTensors shapes;
    AttentionPlan plan;
  };
  std::optional<Planned> planned_;
};

}  // namespace attn
