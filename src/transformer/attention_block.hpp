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
#include "transformer/norm.hpp"
#include "transformer/rotation.hpp"

namespace attn {
struct AttentionBlock::Impl {
  using ResolvedExecution = detail::ResolvedExecution;
  using Linear = detail::Linear;
  using Norm = detail::Norm;
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
  std::optional<Norm> q_norm, k_norm;
  TensorView alibi_slopes, sinks;
  AttentionOptions padded_options;  // of forwards with kv_lens
  Execution execution;
  ResolvedExecution resources;
  std::shared_ptr<ForwardScratch> scratch;
  std::optional<detail::Rotation> rotation;  // empty: q and k are not rotated
  Linear qkv, out;

 private:
  /// q, k and v of the new tokens, [batch, heads, seq, head_dim], or [1, heads, tokens, head_dim]
  /// of ragged ones: views of one buffer. `out` has the shape of q.
  struct Heads {
    MutableTensorView q, k, v, out;
    Heads tokens(std::int64_t begin, std::int64_t end) const;
  };
  Heads heads_of(const MutableTensorView& qkv_rows, const MutableTensorView& attended,
                 const TokenShape& tokens) const;
  void normalize(const MutableTensorView& qkv_rows, const Heads& heads) const;
  void append_and_attend(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                         const ForwardOptions& options);
  void append_in_parts(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                       const ForwardOptions& options, std::int64_t* appended);
  void append_part(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                   const ForwardOptions& options);
  AttentionTensors call_of(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                           const ForwardOptions& options) const;
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
