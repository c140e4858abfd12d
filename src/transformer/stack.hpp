// What decoders and encoders have in common: the embedding of tokens and a list of layers.
#pragma once

#include <attn/transformer.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "threads/openmp.hpp"
#include "transformer/layer.hpp"

namespace attn::detail {

struct StackSettings {
  const std::vector<LayerSettings>& layers;
  std::int64_t vocab_size;
  std::int64_t num_token_types = 0;  // 0: the model has none
  float embedding_scale = 1;
};
struct StackWeights {
  TensorView embedding, positions, token_types;  // positions and token_types may be absent
  const std::vector<LayerWeights>& layers;
};

/// Throws Error(invalid_argument) unless the table is [rows, hidden].
void check_table(const char* name, const TensorView& table, std::int64_t rows,
                 const char* rows_name, std::int64_t hidden);

class LayerStack {
 public:
  /// Throws Error(invalid_argument), which names the setting or the weight and its layer.
  LayerStack(const StackSettings& settings, const StackWeights& weights,
             const Execution& execution);

  std::int64_t hidden() const noexcept { return hidden_; }
  const Execution& execution() const noexcept { return execution_; }
  const ResolvedExecution& resources() const noexcept { return resources_; }
  ForwardScratch& scratch() const noexcept { return *scratch_; }
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const noexcept;
  /// Bytes of the tables of embeddings.
  std::size_t tables_bytes() const noexcept;

  /// The shape of ids, which may be ragged. Throws unless ids, caches and options fit.
  TokenShape checked(const TensorView& ids, std::span<const CacheRef> caches,
                     const ForwardOptions& options) const;
  /// The sum of the embeddings of ids that have been checked, f32 [tokens, hidden] in the scratch
  /// memory. token_types [tokens of ids] is absent for types of 0.
  MutableTensorView embed(const TensorView& ids, const TensorView& token_types,
                          const TokenShape& tokens, const CacheRef& cache, ForwardTimes* times);
  /// Runs all layers on x, and then `finish`. If one of them throws, no cache keeps the new keys.
  template <class Finish>
  void run(const MutableTensorView& x, const TokenShape& tokens, std::span<const CacheRef> caches,
           const ForwardOptions& options, Finish&& finish) {
    const BetweenProducts between(layers_.front().attention.qkv.uses_onednn(tokens));
    std::size_t done = 0;
    try {
      for (; done < layers_.size(); ++done) layers_[done].run(x, tokens, caches[done], options);
      finish();
    } catch (...) {
      while (done-- > 0) rollback(caches[done], tokens);
      throw;
    }
  }

 private:
  void add_row(const TensorView& table, std::int64_t n, float* row);

  std::int64_t hidden_, vocab_size_;
  float embedding_scale_;
  Execution execution_;
  ResolvedExecution resources_;
  std::shared_ptr<ForwardScratch> scratch_;
  TensorView embedding_, positions_, token_types_;
  std::vector<TransformerLayer::Impl> layers_;
  Buffer added_;
};

}  // namespace attn::detail
