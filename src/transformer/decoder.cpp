#include <attn/transformer.hpp>

#include <algorithm>
#include <string>
#include <utility>

#include "iterate/row.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
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

const DecoderWeights& checked(const DecoderSettings& settings, const DecoderWeights& weights) {
  const std::int64_t hidden = settings.layer.attention.hidden;
  require_positive("hidden", hidden);
  require_positive("num_layers", settings.num_layers);
  require_positive("vocab_size", settings.vocab_size);
  check_table("embedding", weights.embedding, settings.vocab_size, "vocab_size", hidden);
  if (!weights.positions.absent()) {
    check_table("positions", weights.positions, settings.layer.attention.max_positions,
                "max_positions", hidden);
  }
  if (!weights.output.absent())
    check_table("output", weights.output, settings.vocab_size, "vocab_size", hidden);
  if (std::ssize(weights.layers) != settings.num_layers) {
    reject(fmt::format("layers has {} layers; it needs {} (num_layers)", weights.layers.size(),
                       settings.num_layers));
  }
  return weights;
}

/// Errors of a layer's weights say which layer's they are.
template <class F>
auto naming_layer(std::size_t layer, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("layer {}: {}", layer, error.what()));
  }
}

/// A sequence's keys, whichever cache they are in.
bool same_keys(const CacheRef& a, const CacheRef& b) {
  if (a.contiguous() != nullptr) {
    return a.contiguous() == b.contiguous() &&
           (!a.sequence() || !b.sequence() || *a.sequence() == *b.sequence());
  }
  const auto in_b = [&](PagedKvCache::Sequence s) {
    return std::ranges::find(b.sequences(), s) != b.sequences().end();
  };
  return a.paged() != nullptr && a.paged() == b.paged() && std::ranges::any_of(a.sequences(), in_b);
}

/// A layer's cache is its own, and as far as the first one's.
void check_alike(std::span<const CacheRef> caches, std::size_t layer, const TokenShape& tokens) {
  for (std::size_t other = 0; other < layer; ++other) {
    if (same_keys(caches[layer], caches[other]))
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

}  // namespace

struct Decoder::Parts {
  Parts(const DecoderSettings& settings, const DecoderWeights& weights, const Execution& execution);

  TokenShape checked(const TensorView& ids, std::span<const CacheRef> caches,
                     const MutableTensorView& logits, const ForwardOptions& options) const;
  void embed(const TensorView& ids, const CacheRef& cache, const MutableTensorView& x,
             ForwardTimes* times);
  void make_logits(const TensorView& x, const TokenShape& tokens, const MutableTensorView& logits,
                   ForwardTimes* times);

  DecoderSettings settings;
  Execution execution;
  ResolvedExecution resources;
  std::shared_ptr<ForwardScratch> activations;
  TensorView embedding, positions;
  Norm final_norm;
  std::vector<TransformerLayer::Parts> layers;
  OutputHead head;
  std::size_t in_place_bytes;
  Buffer padded, added;
};

Decoder::Parts::Parts(const DecoderSettings& given, const DecoderWeights& weights,
                      const Execution& given_execution)
    : settings(given),
      execution(given_execution),
      resources(resolve(execution)),
      activations(std::make_shared<ForwardScratch>()),
      embedding(attn::checked(settings, weights).embedding),
      positions(weights.positions),
      final_norm("final_norm", settings.layer.norm, weights.final_norm,
                 settings.layer.attention.hidden),
      head(weights.output.absent() ? embedding : weights.output, resources) {
  layers.reserve(weights.layers.size());
  for (std::size_t n = 0; n < weights.layers.size(); ++n) {
    naming_layer(
        n, [&] { layers.emplace_back(settings.layer, weights.layers[n], execution, activations); });
  }
  in_place_bytes = 0;
  for (const TensorView& table : {embedding, positions, weights.output}) {
    if (!table.absent())
      in_place_bytes += static_cast<std::size_t>(table.size()) * size_of(table.dtype);
  }
}

TokenShape Decoder::Parts::checked(const TensorView& ids, std::span<const CacheRef> caches,
                                   const MutableTensorView& logits,
                                   const ForwardOptions& options) const {
  require_rank("ids", ids, 2, "[batch, seq]");
  if (ids.dtype != DType::i32 && ids.dtype != DType::i64)
    reject(fmt::format("ids has type {}; it needs i32 or i64", name_of(ids.dtype)));
  require_data("ids", ids);
  const TokenShape tokens{ids.shape[0], ids.shape[1]};
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    for (std::int64_t n = 0; n < tokens.seq; ++n) {
      const std::int64_t id = integer_at(ids, entry, n);
      if (id >= 0 && id < settings.vocab_size) continue;
      reject(
          fmt::format("ids[{}, {}] is {}; it needs to be 0 or more and less than {} (vocab_size)",
                      entry, n, id, settings.vocab_size));
    }
  }
  if (caches.size() != layers.size())
    reject(fmt::format("caches are {}; {} are needed, one for each layer", caches.size(),
                       layers.size()));
  for (std::size_t n = 0; n < layers.size(); ++n) {
    naming_layer(n, [&] { layers[n].attention.check(tokens, caches[n], options); });
    check_alike(caches, n, tokens);
  }
  if (logits.absent()) return tokens;
  require_type("logits", logits, DType::f32);
  if (logits.rank() == 2) {
    require_extent("logits", logits, 0, tokens.batch, "batch of ids");
    if (tokens.seq == 0) reject("ids has no tokens; logits of the last one need at least one");
  } else {
    require_rank("logits", logits, 3, "[batch, vocab_size] or [batch, seq, vocab_size]");
    require_extent("logits", logits, 0, tokens.batch, "batch of ids");
    require_extent("logits", logits, 1, tokens.seq, "seq of ids");
  }
  require_extent("logits", logits, logits.rank() - 1, settings.vocab_size, "vocab_size");
  require_data("logits", logits);
  if (logits.strides != dense_strides(logits.shape)) {
    reject(fmt::format("logits has strides {} for shape {}; it needs to be dense",
                       logits.strides.to_string(), logits.shape.to_string()));
  }
  return tokens;
}

void Decoder::Parts::embed(const TensorView& ids, const CacheRef& cache, const MutableTensorView& x,
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

void Decoder::Parts::make_logits(const TensorView& x, const TokenShape& tokens,
                                 const MutableTensorView& logits, ForwardTimes* times) {
  const Timed timed(times, &ForwardTimes::output);
  const std::int64_t hidden = x.shape[1];
  TensorView rows = x;
  if (logits.rank() == 2) {  // of each sequence the last token
    const auto* const last = static_cast<const float*>(x.data) + (tokens.seq - 1) * hidden;
    rows = {last, DType::f32, {tokens.batch, hidden}, {tokens.seq * hidden, 1}};
  }
  const MutableTensorView normed = activations->memory().last.view(DType::f32, rows.shape);
  final_norm.apply(rows, normed, execution);
  head.forward(normed, {logits.data, logits.dtype, {rows.shape[0], settings.vocab_size}}, padded);
}

Decoder::Decoder(const DecoderSettings& settings, const DecoderWeights& weights,
                 const Execution& execution)
    : parts_(std::make_unique<Parts>(settings, weights, execution)) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

const DecoderSettings& Decoder::settings() const noexcept { return parts_->settings; }

std::size_t Decoder::size_in_bytes() const noexcept {
  std::size_t sum = parts_->head.size_in_bytes();
  for (const TransformerLayer::Parts& layer : parts_->layers) {
    sum += layer.attention.qkv.size_in_bytes() + layer.attention.out.size_in_bytes() +
           layer.mlp.size_in_bytes();
  }
  return sum;
}

std::size_t Decoder::in_place_bytes() const noexcept { return parts_->in_place_bytes; }

std::size_t Decoder::bytes_read_per_step() const noexcept {
  const TensorView& output = parts_->head.weight();
  return size_in_bytes() - parts_->head.size_in_bytes() +
         static_cast<std::size_t>(output.size()) * size_of(output.dtype);
}

std::size_t Decoder::activation_bytes() const noexcept {
  return parts_->activations->size_in_bytes();
}

void Decoder::forward(const TensorView& ids, std::span<const CacheRef> caches,
                      const MutableTensorView& logits, const ForwardOptions& options) {
  const TokenShape tokens = parts_->checked(ids, caches, logits, options);
  if (tokens.count() == 0) return;
  const MutableTensorView x = parts_->activations->memory().residual.view(
      DType::f32, {tokens.count(), parts_->settings.layer.attention.hidden});
  parts_->embed(ids, caches.front(), x, options.times);
  std::size_t done = 0;
  try {
    for (; done < parts_->layers.size(); ++done)
      parts_->layers[done].run(x, tokens, caches[done], options);
    if (!logits.absent()) parts_->make_logits(x, tokens, logits, options.times);
  } catch (...) {
    while (done-- > 0) take_back(caches[done], tokens);
    throw;
  }
}

std::vector<KvCache> make_caches(const DecoderSettings& settings, std::int64_t batch,
                                 std::int64_t capacity, std::optional<DType> dtype) {
  const AttentionSettings& attention = settings.layer.attention;
  std::vector<KvCache> caches;
  for (std::int64_t n = 0; n < settings.num_layers; ++n) {
    caches.emplace_back(KvCache::Settings{.batch = batch,
                                          .num_kv_heads = attention.num_kv_heads,
                                          .capacity = capacity,
                                          .head_dim = attention.head_dim,
                                          .dtype = dtype.value_or(attention.dtype)});
  }
  return caches;
}

}  // namespace attn
