// The attention block's inside, as a layer uses it: on dense rows of tokens.
#pragma once

#include <attn/transformer.hpp>

#include <memory>
#include <optional>
#include <utility>

#include "transformer/forward_scratch.hpp"
#include "transformer/linear.hpp"

namespace attn {
namespace detail {

/// Tokens of a forward.
struct TokenShape {
  std::int64_t batch;
  std::int64_t seq;
  std::int64_t count() const noexcept { return batch * seq; }
};

}  // namespace detail

struct AttentionBlock::Parts {
  using ResolvedExecution = detail::ResolvedExecution;
  using Linear = detail::Linear;
  using TokenShape = detail::TokenShape;

  Parts(const AttentionSettings& settings, const AttentionParameters& weights,
        const Execution& execution, std::shared_ptr<ForwardScratch> activations);

  /// Throws, before anything changes, unless such a forward fits this block and its cache.
  void check(const TokenShape& tokens, const CacheRef& cache, const ForwardOptions& options) const;
  /// x [tokens, hidden] of qkv.operands(), y [tokens, hidden] as Linear::forward has it; y may be
  /// x's memory. Checked. If it throws, the cache holds what it held.
  void run(const TensorView& x, const TokenShape& tokens, const CacheRef& cache,
           const MutableTensorView& y, Linear::Result result, const ForwardOptions& options);

  AttentionSettings settings;
  Tensor q_norm, k_norm;  // f32; empty: none
  TensorView alibi_slopes, sinks;
  AttentionOptions padded_options;  // those of forwards with kv_lens
  Execution execution;
  ResolvedExecution resources;
  std::shared_ptr<ForwardScratch> activations;
  std::shared_ptr<const RopeTables> rope;  // null: none
  Linear qkv, out;

 private:
  /// Views of one buffer, [batch, heads, seq, head_dim].
  struct Heads {
    MutableTensorView q, k, v;
  };
  Heads heads_of(const MutableTensorView& qkv_rows, const TokenShape& tokens) const;
  void check_visibility(const TokenShape& tokens, const CacheRef& cache,
                        const ForwardOptions& options) const;
  void check_padding(const TokenShape& tokens, const CacheRef& cache,
                     const TensorView& kv_lens) const;
  TensorView position_ids(const TokenShape& tokens, const CacheRef& cache);
  void normalize_and_turn(const Heads& heads, const TokenShape& tokens, const CacheRef& cache);
  AttentionTensors bind(const Heads& heads, const CacheRef& cache, const ForwardOptions& options);
  void attend_and_project(const Heads& heads, const TokenShape& tokens, const CacheRef& cache,
                          const MutableTensorView& y, Linear::Result result,
                          const ForwardOptions& options);
  void attend(const AttentionTensors& tensors, const ForwardOptions& options);

  /// The last plan, and what it was made for.
  struct Planned {
    bool padded;  // with padded_options
    AttentionTensors shapes;
    AttentionPlan plan;
  };
  std::optional<Planned> planned_;
};

namespace detail {

/// The positions of a batch entry's next token; 0 without a cache.
std::int64_t next_position(const CacheRef& cache, std::int64_t entry);

/// Drops the keys that a forward of such tokens appended.
void take_back(const CacheRef& cache, const TokenShape& tokens);
/// What comes after an append; if it fails, the keys are taken back.
template <class F>
void with_rollback(const CacheRef& cache, const TokenShape& tokens, F&& f) {
  try {
    std::forward<F>(f)();
  } catch (...) {
    take_back(cache, tokens);
    throw;
  }
}

}  // namespace detail
}  // namespace attn
