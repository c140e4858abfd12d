// The attention block's inside, as a layer uses it: on dense rows of tokens.
#pragma once

#include <attn/transformer.hpp>

#include <memory>
#include <optional>

#include "transformer/activations.hpp"
#include "transformer/linear.hpp"

namespace attn {

/// Tokens of a forward.
struct TokenShape {
  std::int64_t batch;
  std::int64_t seq;
  std::int64_t count() const noexcept { return batch * seq; }
};

struct AttentionBlock::Parts {
  Parts(const AttentionSettings& settings, const AttentionWeights& weights, const Execution& execution,
        std::shared_ptr<Activations> activations);

  /// Throws, before anything changes, unless such a forward fits this block and its cache.
  void check(const TokenShape& tokens, const CacheRef& cache, const ForwardOptions& options) const;
  /// x [tokens, hidden] of qkv.operands(), y [tokens, hidden] as Linear::forward has it. Checked.
  void run(const TensorView& x, const TokenShape& tokens, const CacheRef& cache, const MutableTensorView& y, Linear::Result result,
           const ForwardOptions& options);

  AttentionSettings settings;
  TensorView q_norm, k_norm, alibi_slopes, sinks;
  Execution execution;
  Resources resources;
  std::shared_ptr<Activations> activations;
  std::optional<RopeTables> rope;
  Linear qkv, out;

 private:
  /// Views of one buffer, [batch, heads, seq, head_dim].
  struct Heads {
    MutableTensorView q, k, v;
  };
  Heads heads_of(const MutableTensorView& qkv_rows, const TokenShape& tokens) const;
  TensorView position_ids(const TokenShape& tokens, const CacheRef& cache);
  void normalise_and_turn(const Heads& heads, const TokenShape& tokens, const CacheRef& cache);
  Tensors bind(const Heads& heads, const CacheRef& cache, const ForwardOptions& options);
  void attend(const Tensors& tensors, const ForwardOptions& options);

  /// The last plan, and what it was made for.
  struct Planned {
    Tensors shapes;
    Plan plan;
  };
  std::optional<Planned> planned_;
};

/// The positions of a batch entry's next token; 0 without a cache.
std::int64_t next_position(const CacheRef& cache, std::int64_t entry);

}  // namespace attn
