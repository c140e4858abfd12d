#include <attn/transformer.hpp>

#include <algorithm>
#include <utility>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"
#include "threads/parallel.hpp"
#include "transformer/output_head.hpp"
#include "transformer/stack.hpp"

namespace attn {
using namespace detail;
namespace {

const DecoderSettings& checked(const DecoderSettings& settings, const DecoderWeights& weights) {
  if (settings.logit_softcap) require_positive_number("logit_softcap", *settings.logit_softcap);
  if (!weights.output.absent() && !settings.layers.empty()) {
    check_table("output", weights.output, settings.vocab_size, "vocab_size",
                settings.layers.front().attention.hidden);
  }
  return settings;
}

/// Logits are absent, [batch, vocab_size], or [batch, seq, vocab_size] ([1, tokens, vocab_size] if
/// ragged), f32 and dense.
void check_logits(const MutableTensorView& logits, const TokenShape& tokens,
                  std::int64_t vocab_size) {
  if (logits.absent()) return;
  require_type("logits", logits, DType::f32);
  if (logits.rank() == 2) {
    require_extent("logits", logits, 0, tokens.batch, "batch of ids");
    for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
      if (tokens.length(entry) > 0) continue;
      reject(tokens.ragged()
                 ? fmt::format("sequence {} of ids has no tokens; logits of the last one need at "
                               "least one",
                               entry)
                 : "ids has no tokens; logits of the last one need at least one");
    }
  } else {
    require_rank("logits", logits, 3, "[batch, vocab_size] or [batch, seq, vocab_size]");
    require_extent("logits", logits, 0, tokens.ragged() ? 1 : tokens.batch, "batch of ids");
    require_extent("logits", logits, 1, tokens.ragged() ? tokens.count() : tokens.seq,
                   "seq of ids");
  }
  require_extent("logits", logits, logits.rank() - 1, vocab_size, "vocab_size");
  require_data("logits", logits);
  if (logits.strides != dense_strides(logits.shape)) {
    reject(fmt::format("logits has strides {} for shape {}; it needs to be dense",
                       logits.strides.to_string(), logits.shape.to_string()));
  }
}

/// The keys that a rolling cache of a layer with a causal window needs to hold, or the capacity
/// where that is less or tokens see others.
std::int64_t keys_kept(const AttentionOptions& options, std::int64_t capacity) {
  constexpr std::int64_t most_at_once = 128;
  if (!options.causal || !options.window || !options.window->left) return capacity;
  const std::int64_t left = *options.window->left;
  if (left >= capacity) return capacity;
  return std::min(capacity, left + 1 + std::min(left + 1, most_at_once));
}

}  // namespace

struct Decoder::Impl {
  Impl(const DecoderSettings& settings, const DecoderWeights& weights, const Execution& execution);

  TensorView last_rows(const TensorView& x, const TokenShape& tokens);
  void make_logits(const TensorView& x, const TokenShape& tokens, const MutableTensorView& logits,
                   ForwardTimes* times);
  void cap(const MutableTensorView& logits, float softcap) const;

  DecoderSettings settings;
  LayerStack stack;
  Norm final_norm;
  OutputHead head;
  std::size_t in_place_bytes;
  Buffer padded, last;
};

Decoder::Impl::Impl(const DecoderSettings& given, const DecoderWeights& weights,
                    const Execution& execution)
    : settings(attn::checked(given, weights)),
      stack({.layers = settings.layers,
             .vocab_size = settings.vocab_size,
             .embedding_scale = settings.embedding_scale},
            {weights.embedding, weights.positions, {}, weights.layers}, execution),
      final_norm("final_norm", settings.layers.back().norm, weights.final_norm, stack.hidden()),
      head(weights.output.absent() ? weights.embedding : weights.output, stack.resources()),
      in_place_bytes(stack.tables_bytes()) {
  if (!weights.output.absent())
    in_place_bytes +=
        static_cast<std::size_t>(weights.output.size()) * size_of(weights.output.dtype);
}

/// The row of each sequence's last token.
TensorView Decoder::Impl::last_rows(const TensorView& x, const TokenShape& tokens) {
  const std::int64_t hidden = stack.hidden();
  const auto* const rows = static_cast<const float*>(x.data);
  if (!tokens.ragged()) {
    return {rows + (tokens.seq - 1) * hidden,
            DType::f32,
            {tokens.batch, hidden},
            {tokens.seq * hidden, 1}};
  }
  const MutableTensorView gathered = last.view(DType::f32, {tokens.batch, hidden});
  for (std::int64_t entry = 0; entry < tokens.batch; ++entry) {
    const std::int64_t row = tokens.first(entry + 1) - 1;
    copy_into(x.sliced(0, row, row + 1), gathered.sliced(0, entry, entry + 1));
  }
  return gathered;
}

void Decoder::Impl::make_logits(const TensorView& x, const TokenShape& tokens,
                                const MutableTensorView& logits, ForwardTimes* times) {
  const Timed timed(times, &ForwardTimes::output);
  const TensorView rows = logits.rank() == 2 ? last_rows(x, tokens) : x;
  const MutableTensorView normed = stack.scratch().memory().last.view(DType::f32, rows.shape);
  final_norm.apply(rows, normed, stack.execution());
  const MutableTensorView matrix(logits.data, logits.dtype, {rows.shape[0], settings.vocab_size});
  head.forward(normed, matrix, padded);
  if (settings.logit_softcap) cap(matrix, *settings.logit_softcap);
}

void Decoder::Impl::cap(const MutableTensorView& logits, float softcap) const {
  constexpr std::int64_t chunk_size = 4096;
  const ResolvedExecution& resources = stack.resources();
  auto* const values = static_cast<float*>(logits.data);
  const std::int64_t size = logits.size();
  parallel_for(
      threads_for(size, resources.threads), divide_up(size, chunk_size), [&](std::int64_t chunk) {
        const std::int64_t begin = chunk * chunk_size;
        resources.kernels.softcap(values + begin, std::min(chunk_size, size - begin), softcap);
      });
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
  return impl().head.size_in_bytes() + impl().stack.size_in_bytes();
}

std::size_t Decoder::in_place_bytes() const { return impl().in_place_bytes; }

std::size_t Decoder::bytes_read_per_step() const {
  const TensorView& output = impl().head.weight();
  return impl().stack.size_in_bytes() +
         static_cast<std::size_t>(output.size()) * size_of(output.dtype);
}

std::size_t Decoder::scratch_bytes() const { return impl().stack.scratch().size_in_bytes(); }

void Decoder::forward(const TensorView& ids, std::span<const CacheRef> caches,
                      const MutableTensorView& logits, const ForwardOptions& options) {
  LayerStack& stack = impl().stack;
  const TokenShape tokens = stack.checked(ids, caches, options);
  check_logits(logits, tokens, impl().settings.vocab_size);
  if (tokens.count() == 0) return;
  const MutableTensorView x = stack.embed(ids, {}, tokens, caches.front(), options.times);
  stack.run(x, tokens, caches, options, [&] {
    if (!logits.absent()) impl().make_logits(x, tokens, logits, options.times);
  });
}

std::vector<KvCache> make_caches(const DecoderSettings& settings, std::int64_t batch,
                                 std::int64_t capacity, std::optional<DType> dtype,
                                 WindowKeys keys) {
  require_enumerator("keys", keys, WindowKeys::window);
  std::vector<KvCache> caches;
  caches.reserve(settings.layers.size());
  for (const LayerSettings& layer : settings.layers) {
    const AttentionSettings& attention = layer.attention;
    const std::int64_t kept =
        keys == WindowKeys::window ? keys_kept(attention.options, capacity) : capacity;
    caches.emplace_back(KvCache::Settings{.batch = batch,
                                          .num_kv_heads = attention.num_kv_heads,
                                          .capacity = kept,
                                          .head_dim = attention.head_dim,
                                          .dtype = dtype.value_or(attention.dtype),
                                          .rolling = kept < capacity});
  }
  return caches;
}

}  // namespace attn
