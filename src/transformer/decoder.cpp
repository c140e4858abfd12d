#include <attn/transformer.hpp>

#include <algorithm>
#include <string>
#include <utility>

#include "iterate/row.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "threads/openmp.hpp"
#include "transformer/layer.hpp"
#include "transformer/output_head.hpp"

namespace attn {
using namespace detail;
namespace {

void check_table(const char* name, const TensorView& table, std::int64_t rows,
                 const char* rows_name, std::int64_t hidden) {
  require_rank(name, table, 2, "[rows, hidden]");
  require_float(name, table);
  require_extent(name, table, 0, rows, rows_name);
  require_extent(name, table, 1, hidden, "hidden");
  require_data(name, table);
}

/// The width of the residual stream, which all layers have in common.
std::int64_t checked_hidden(const DecoderSettings& settings) {
  if (settings.layers.empty()) reject("settings.layers is empty; a decoder needs 1 layer or more");
  const std::int64_t hidden = settings.layers.front().attention.hidden;
  require_positive("hidden", hidden);
  for (std::size_t n = 1; n < settings.layers.size(); ++n) {
    const std::int64_t other = settings.layers[n].attention.hidden;
    if (other == hidden) continue;
    reject(fmt::format("layer {}: hidden is {}; it needs to be {}, as that of layer 0", n, other,
                       hidden));
  }
  return hidden;
}

/// No forward gets further than the layer with the fewest positions.
std::int64_t least_max_positions(const DecoderSettings& settings) {
  const auto positions = [](const LayerSettings& layer) { return layer.attention.max_positions; };
  return positions(std::ranges::min(settings.layers, {}, positions));
}

const DecoderWeights& checked(const DecoderSettings& settings, const DecoderWeights& weights) {
  const std::int64_t hidden = checked_hidden(settings);
  require_positive("vocab_size", settings.vocab_size);
  check_table("embedding", weights.embedding, settings.vocab_size, "vocab_size", hidden);
  if (!weights.positions.absent()) {
    check_table("positions", weights.positions, least_max_positions(settings), "max_positions",
                hidden);
  }
  if (!weights.output.absent())
    check_table("output", weights.output, settings.vocab_size, "vocab_size", hidden);
  if (weights.layers.size() != settings.layers.size()) {
    reject(fmt::format("weights.layers has {} layers; it needs {} (settings.layers)",
                       weights.layers.size(), settings.layers.size()));
  }
  return weights;
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

/// The shape of ids. Throws unless each is a token of the vocabulary.
TokenShape checked_ids(const TensorView& ids, std::int64_t vocab_size) {
  require_rank("ids", ids, 2, "[batch, seq]");
  require_integers("ids", ids);
  require_data("ids", ids);
  const TokenShape tokens{ids.shape[0], ids.shape[1]};
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    for (std::int64_t n = 0; n < tokens.seq; ++n) {
      const std::int64_t id = integer_at(ids, entry, n);
      if (id >= 0 && id < vocab_size) continue;
      reject(
          fmt::format("ids[{}, {}] is {}; it needs to be 0 or more and less than {} (vocab_size)",
                      entry, n, id, vocab_size));
    }
  }
  return tokens;
}

/// Logits are absent, [batch, vocab_size] or [batch, seq, vocab_size], f32 and dense.
void check_logits(const MutableTensorView& logits, const TokenShape& tokens,
                  std::int64_t vocab_size) {
  if (logits.absent()) return;
  require_type("logits", logits, DType::f32);
  if (logits.rank() == 2) {
    require_extent("logits", logits, 0, tokens.batch, "batch of ids");
    if (tokens.seq == 0) reject("ids has no tokens; logits of the last one need at least one");
  } else {
    require_rank("logits", logits, 3, "[batch, vocab_size] or [batch, seq, vocab_size]");
    require_extent("logits", logits, 0, tokens.batch, "batch of ids");
    require_extent("logits", logits, 1, tokens.seq, "seq of ids");
  }
  require_extent("logits", logits, logits.rank() - 1, vocab_size, "vocab_size");
  require_data("logits", logits);
  if (logits.strides != dense_strides(logits.shape)) {
    reject(fmt::format("logits has strides {} for shape {}; it needs to be dense",
                       logits.strides.to_string(), logits.shape.to_string()));
  }
}

}  // namespace

struct Decoder::Impl {
  Impl(const DecoderSettings& settings, const DecoderWeights& weights, const Execution& execution);

  TokenShape checked(const TensorView& ids, std::span<const CacheRef> caches,
                     const MutableTensorView& logits, const ForwardOptions& options) const;
  void embed(const TensorView& ids, const CacheRef& cache, const MutableTensorView& x,
             ForwardTimes* times);
  void make_logits(const TensorView& x, const TokenShape& tokens, const MutableTensorView& logits,
                   ForwardTimes* times);

  DecoderSettings settings;
  Execution execution;
  ResolvedExecution resources;
  std::shared_ptr<ForwardScratch> scratch;
  TensorView embedding, positions;
  Norm final_norm;
  std::vector<TransformerLayer::Impl> layers;
  OutputHead head;
  std::size_t in_place_bytes;
  Buffer padded, added;
};

Decoder::Impl::Impl(const DecoderSettings& given, const DecoderWeights& weights,
                    const Execution& given_execution)
    : settings(given),
      execution(given_execution),
      resources(resolve(execution)),
      scratch(std::make_shared<ForwardScratch>()),
      embedding(attn::checked(settings, weights).embedding),
      positions(weights.positions),
      final_norm("final_norm", settings.layers.back().norm, weights.final_norm,
                 settings.layers.front().attention.hidden),
      head(weights.output.absent() ? embedding : weights.output, resources) {
  layers.reserve(weights.layers.size());
  for (std::size_t n = 0; n < weights.layers.size(); ++n) {
    naming_layer(
        n, [&] { layers.emplace_back(settings.layers[n], weights.layers[n], execution, scratch); });
  }
  in_place_bytes = 0;
  for (const TensorView& table : {embedding, positions, weights.output}) {
    if (!table.absent())
      in_place_bytes += static_cast<std::size_t>(table.size()) * size_of(table.dtype);
  }
}

TokenShape Decoder::Impl::checked(const TensorView& ids, std::span<const CacheRef> caches,
                                  const MutableTensorView& logits,
                                  const ForwardOptions& options) const {
  const TokenShape tokens = checked_ids(ids, settings.vocab_size);
  if (caches.size() != layers.size())
    reject(fmt::format("caches are {}; {} are needed, one for each layer", caches.size(),
                       layers.size()));
  for (std::size_t n = 0; n < layers.size(); ++n) {
    naming_layer(n, [&] { layers[n].attention.check(tokens, caches[n], options); });
    check_positions(caches, n, tokens);
  }
  check_logits(logits, tokens, settings.vocab_size);
  return tokens;
}

void Decoder::Impl::embed(const TensorView& ids, const CacheRef& cache, const MutableTensorView& x,
                          ForwardTimes* times) {
  const Timed timed(times, &ForwardTimes::embedding);
  const std::int64_t hidden = x.shape[1];
  auto* row = static_cast<float*>(x.data);
  auto* const position_row = static_cast<float*>(added.view(DType::f32, {hidden}).data);
  for (std::int64_t entry = 0; entry < ids.shape[0]; ++entry) {
    const std::int64_t first = next_position(cache, entry);
    for (std::int64_t n = 0; n < ids.shape[1]; ++n, row += hidden) {
      read_row(row_of(embedding, integer_at(ids, entry, n)), hidden, resources.kernels, row);
      if (positions.absent()) continue;
      read_row(row_of(positions, first + n), hidden, resources.kernels, position_row);
      for (std::int64_t d = 0; d < hidden; ++d) row[d] += position_row[d];
    }
  }
}

void Decoder::Impl::make_logits(const TensorView& x, const TokenShape& tokens,
                                const MutableTensorView& logits, ForwardTimes* times) {
  const Timed timed(times, &ForwardTimes::output);
  const std::int64_t hidden = x.shape[1];
  TensorView rows = x;
  if (logits.rank() == 2) {  // logits of each sequence's last token
    const auto* const last = static_cast<const float*>(x.data) + (tokens.seq - 1) * hidden;
    rows = {last, DType::f32, {tokens.batch, hidden}, {tokens.seq * hidden, 1}};
  }
  const MutableTensorView normed = scratch->memory().last.view(DType::f32, rows.shape);
  final_norm.apply(rows, normed, execution);
  head.forward(normed, {logits.data, logits.dtype, {rows.shape[0], settings.vocab_size}}, padded);
}

Decoder::Decoder(const DecoderSettings& settings, const DecoderWeights& weights,
                 const Execution& execution)
    : impl_(std::make_unique<Impl>(settings, weights, execution)) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

Decoder::Impl& Decoder::impl() const { return not_moved_from("decoder", impl_); }

const DecoderSettings& Decoder::settings() const { return impl().settings; }

std::size_t Decoder::size_in_bytes() const {
  std::size_t sum = impl().head.size_in_bytes();
  for (const TransformerLayer::Impl& layer : impl().layers) {
    sum += layer.attention.qkv.size_in_bytes() + layer.attention.out.size_in_bytes() +
           layer.mlp.size_in_bytes();
  }
  return sum;
}

std::size_t Decoder::in_place_bytes() const { return impl().in_place_bytes; }

std::size_t Decoder::bytes_read_per_step() const {
  const TensorView& output = impl().head.weight();
  return size_in_bytes() - impl().head.size_in_bytes() +
         static_cast<std::size_t>(output.size()) * size_of(output.dtype);
}

std::size_t Decoder::scratch_bytes() const { return impl().scratch->size_in_bytes(); }

void Decoder::forward(const TensorView& ids, std::span<const CacheRef> caches,
                      const MutableTensorView& logits, const ForwardOptions& options) {
  const TokenShape tokens = impl().checked(ids, caches, logits, options);
  if (tokens.count() == 0) return;
  const MutableTensorView x = impl().scratch->memory().residual.view(
      DType::f32, {tokens.count(), impl().settings.layers.front().attention.hidden});
  impl().embed(ids, caches.front(), x, options.times);
  const BetweenProducts between(impl().layers.front().attention.qkv.uses_onednn(tokens.count()));
  std::size_t done = 0;
  try {
    for (; done < impl().layers.size(); ++done)
      impl().layers[done].run(x, tokens, caches[done], options);
    if (!logits.absent()) impl().make_logits(x, tokens, logits, options.times);
  } catch (...) {
    while (done-- > 0) rollback(caches[done], tokens);
    throw;
  }
}

std::vector<KvCache> make_caches(const DecoderSettings& settings, std::int64_t batch,
                                 std::int64_t capacity, std::optional<DType> dtype) {
  std::vector<KvCache> caches;
  caches.reserve(settings.layers.size());
  for (const LayerSettings& layer : settings.layers) {
    const AttentionSettings& attention = layer.attention;
    caches.emplace_back(KvCache::Settings{.batch = batch,
                                          .num_kv_heads = attention.num_kv_heads,
                                          .capacity = capacity,
                                          .head_dim = attention.head_dim,
                                          .dtype = dtype.value_or(attention.dtype)});
  }
  return caches;
}

}  // namespace attn
