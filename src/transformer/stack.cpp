#include "transformer/stack.hpp"

#include <attn/error.hpp>

#include <algorithm>
#include <string>
#include <utility>

#include "iterate/row.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "transformer/block_arguments.hpp"

namespace attn::detail {
namespace {

/// The width of the residual stream, which all layers have in common.
std::int64_t checked_hidden(const std::vector<LayerSettings>& layers) {
  if (layers.empty()) reject("settings.layers is empty; a model needs 1 layer or more");
  const std::int64_t hidden = layers.front().attention.hidden;
  require_positive("hidden", hidden);
  for (std::size_t n = 1; n < layers.size(); ++n) {
    const std::int64_t other = layers[n].attention.hidden;
    if (other == hidden) continue;
    reject(fmt::format("layer {}: hidden is {}; it needs to be {}, as that of layer 0", n, other,
                       hidden));
  }
  return hidden;
}

/// No forward gets further than the layer with the fewest positions.
std::int64_t least_max_positions(const std::vector<LayerSettings>& layers) {
  const auto positions = [](const LayerSettings& layer) { return layer.attention.max_positions; };
  return positions(std::ranges::min(layers, {}, positions));
}

void check(const StackSettings& settings, const StackWeights& weights, std::int64_t hidden) {
  require_positive("vocab_size", settings.vocab_size);
  require_positive_number("embedding_scale", settings.embedding_scale);
  check_table("embedding", weights.embedding, settings.vocab_size, "vocab_size", hidden);
  if (!weights.positions.absent()) {
    check_table("positions", weights.positions, least_max_positions(settings.layers),
                "max_positions", hidden);
  }
  if (!weights.token_types.absent() || settings.num_token_types != 0) {
    check_table("token_types", weights.token_types, settings.num_token_types, "num_token_types",
                hidden);
  }
  if (weights.layers.size() != settings.layers.size()) {
    reject(fmt::format("weights.layers has {} layers; it needs {} (settings.layers)",
                       weights.layers.size(), settings.layers.size()));
  }
}

/// Calls f(). An Error that it throws gets the layer's number in front of its message.
template <class F>
auto naming_layer(std::size_t layer, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("layer {}: {}", layer, error.what()));
  }
}

/// Throws unless a layer's cache is its own and stands at the positions of the first layer's.
void check_positions(std::span<const CacheRef> caches, std::size_t layer,
                     const TokenShape& tokens) {
  for (std::size_t other = 0; other < layer; ++other) {
    if (shares_keys(caches[layer], caches[other]))
      reject(fmt::format("layers {} and {} have the same cache; each needs its own", other, layer));
  }
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t position = next_position(caches[layer], entry),
                       first = next_position(caches[0], entry);
    if (position == first) continue;
    reject(
        fmt::format("layer {}: cache is at position {} for batch entry {}; it needs to be at {}, "
                    "as the first layer's",
                    layer, position, entry, first));
  }
}

/// Throws unless each id is a token of the vocabulary.
void check_ids(const TensorView& ids, std::int64_t vocab_size) {
  require_rank("ids", ids, 2, "[batch, seq], or [1, tokens] with q_offsets");
  require_integers("ids", ids);
  require_data("ids", ids);
  for (std::int64_t entry = 0; entry < ids.shape[0]; ++entry) {
    for (std::int64_t n = 0; n < ids.shape[1]; ++n) {
      const std::int64_t id = integer_at(ids, entry, n);
      if (id >= 0 && id < vocab_size) continue;
      reject(
          fmt::format("ids[{}, {}] is {}; it needs to be 0 or more and less than {} (vocab_size)",
                      entry, n, id, vocab_size));
    }
  }
}

}  // namespace

void check_table(const char* name, const TensorView& table, std::int64_t rows,
                 const char* rows_name, std::int64_t hidden) {
  require_rank(name, table, 2, "[rows, hidden]");
  require_float(name, table);
  require_extent(name, table, 0, rows, rows_name);
  require_extent(name, table, 1, hidden, "hidden");
  require_data(name, table);
}

LayerStack::LayerStack(const StackSettings& settings, const StackWeights& weights,
                       const Execution& execution)
    : hidden_(checked_hidden(settings.layers)),
      vocab_size_(settings.vocab_size),
      embedding_scale_(settings.embedding_scale),
      execution_(execution),
      resources_(resolve(execution)),
      scratch_(std::make_shared<ForwardScratch>()),
      embedding_(weights.embedding),
      positions_(weights.positions),
      token_types_(weights.token_types) {
  check(settings, weights, hidden_);
  layers_.reserve(weights.layers.size());
  for (std::size_t n = 0; n < weights.layers.size(); ++n) {
    naming_layer(n, [&] {
      layers_.emplace_back(settings.layers[n], weights.layers[n], execution_, scratch_);
    });
  }
}

std::size_t LayerStack::size_in_bytes() const noexcept {
  std::size_t sum = 0;
  for (const TransformerLayer::Impl& layer : layers_) {
    sum += layer.attention.qkv.size_in_bytes() + layer.attention.out.size_in_bytes() +
           layer.mlp.size_in_bytes();
  }
  return sum;
}

std::size_t LayerStack::tables_bytes() const noexcept {
  std::size_t sum = 0;
  for (const TensorView* table : {&embedding_, &positions_, &token_types_}) {
    if (!table->absent()) sum += static_cast<std::size_t>(table->size()) * size_of(table->dtype);
  }
  return sum;
}

TokenShape LayerStack::checked(const TensorView& ids, std::span<const CacheRef> caches,
                               const ForwardOptions& options) const {
  check_ids(ids, vocab_size_);
  const TokenShape tokens = token_shape(ids.shape[0], ids.shape[1], options, scratch_->memory());
  if (caches.size() != layers_.size())
    reject(fmt::format("caches are {}; {} are needed, one for each layer", caches.size(),
                       layers_.size()));
  for (std::size_t n = 0; n < layers_.size(); ++n) {
    naming_layer(n, [&] { layers_[n].attention.check(tokens, caches[n], options); });
    check_positions(caches, n, tokens);
  }
  return tokens;
}

/// Adds a row of a table to `row`.
void LayerStack::add_row(const TensorView& table, std::int64_t n, float* row) {
  auto* const floats = static_cast<float*>(added_.view(DType::f32, {hidden_}).data);
  read_row(row_of(table, n), hidden_, resources_.kernels, floats);
  for (std::int64_t d = 0; d < hidden_; ++d) row[d] += floats[d];
}

MutableTensorView LayerStack::embed(const TensorView& ids, const TensorView& token_types,
                                    const TokenShape& tokens, const CacheRef& cache,
                                    ForwardTimes* times) {
  const Timed timed(times, &ForwardTimes::embedding);
  const MutableTensorView x =
      scratch_->memory().residual.view(DType::f32, {tokens.count(), hidden_});
  auto* row = static_cast<float*>(x.data);
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t position = next_position(cache, entry);
    for (std::int64_t n = 0; n < tokens.length(entry); ++n, row += hidden_) {
      const std::int64_t line = tokens.ragged() ? 0 : entry,
                         column = tokens.ragged() ? tokens.first(entry) + n : n;
      read_row(row_of(embedding_, integer_at(ids, line, column)), hidden_, resources_.kernels, row);
      if (embedding_scale_ != 1)
        std::for_each_n(row, hidden_, [&](float& value) { value *= embedding_scale_; });
      if (!token_types_.absent()) {
        add_row(token_types_, token_types.absent() ? 0 : integer_at(token_types, line, column),
                row);
      }
      if (!positions_.absent()) add_row(positions_, position + n, row);
    }
  }
  return x;
}

}  // namespace attn::detail
