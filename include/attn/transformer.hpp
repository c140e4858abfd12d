// Transformer layers for inference: an attention block with its projections and KV cache, a layer
// around it, a decoder of layers.
//
//   AttentionBlock     y = o(attention(rope(norm(q(x))), cache with rope(norm(k(x))) and v(x)
//   appended)) TransformerLayer   x += attention(norm(x)), then x += mlp(norm(x)) (pre-norm)
//   Decoder            logits = output(norm(layers(embedding(ids) + positions)))
//
// Tokens are [batch, seq, hidden]. All sequences of a batch get the same number of new tokens; how
// many keys each has in its cache is its own. Prefill, append and decode are one call, forward():
// it appends the keys and values of its tokens to the cache and attends to all that is there then.
//
// Types. settings.dtype is the compute type: f32, or bf16, where weights, the inputs of products,
// queries, keys and values are bf16 and sums, norms and the residual stream are f32. Weights of
// another type are converted once. On instruction sets that do not multiply bf16, and for an odd
// number of inputs, weights are widened and multiplied as f32.
//
// Weights. Projections are packed once, when a block is made, into the panels that both oneDNN's
// matmul (8 rows and more) and the library's own micro-kernel (fewer: decode) read; their views may
// be gone after that, and those of norms and biases. Embeddings, positions, the output's weight,
// sinks and slopes are used where they lie, and have to outlive the object.
//
// Objects hold scratch memory, so each is for one forward at a time. A decode step of up to 7
// tokens whose shapes were those of the step before allocates nothing, but for a PagedKvCache's
// page table, which grows now and then, and norms of 16-bit rows of more than 8192 elements. With
// more tokens, oneDNN allocates a little inside each product.
//
// Errors. Arguments are checked before anything is written. Whatever a forward throws later,
// Error(exhausted) of a pool of pages, std::bad_alloc and what leaves a hook or a mod included, its
// caches hold what they held. A rolling one lacks what had been overwritten by then; if that was
// all of it, it has to be cleared.
#pragma once

#include <attn/attention.hpp>
#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/functional.hpp>
#include <attn/kv_cache.hpp>
#include <attn/rope.hpp>
#include <attn/tensor.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace attn {

// ----------------------------------------------------------------------------------------------------------------
// weights

/// y = x W^T + bias.
struct LinearWeights {
  /// f32, bf16 or f16 [out, in]. Any strides: a transposed view of [in, out], rows of a fused
  /// weight.
  TensorView weight{};
  TensorView bias{};  // [out]; may be absent
};
/// Outputs begin..end-1 of a fused projection.
ATTN_API LinearWeights part_of(const LinearWeights& fused, std::int64_t begin, std::int64_t end);

/// What a norm multiplies with and adds: [width], f32, bf16 or f16. A bias is for layer norm alone,
/// and may be absent.
struct NormWeights {
  TensorView scale{};
  TensorView bias{};
};

struct AttentionParameters {
  LinearWeights q{};    // [num_q_heads * head_dim, hidden]
  LinearWeights k{};    // [num_kv_heads * head_dim, hidden]
  LinearWeights v{};    // [num_kv_heads * head_dim, hidden]
  LinearWeights out{};  // [hidden, num_q_heads * head_dim]
  // May be absent:
  TensorView q_norm{};        // [head_dim]: RMS norm of each head of q, before rope
  TensorView k_norm{};        // the same of k
  TensorView alibi_slopes{};  // as in AttentionTensors
  TensorView sinks{};
};

struct MlpWeights {
  LinearWeights gate{};  // [mlp_width, hidden]; of SwiGLU alone
  LinearWeights up{};    // [mlp_width, hidden]
  LinearWeights down{};  // [hidden, mlp_width]
};

struct LayerWeights {
  NormWeights attention_norm{};
  AttentionParameters attention{};
  NormWeights mlp_norm{};
  MlpWeights mlp{};
};

struct DecoderWeights {
  TensorView embedding{};  // [vocab_size, hidden]
  TensorView positions{};  // [max_positions, hidden], learned; absent: none
  std::vector<LayerWeights> layers{};
  NormWeights final_norm{};
  TensorView output{};  // [vocab_size, hidden]; absent: the embedding (tied)
};

// ---------------------------------------------------------------------------------------------------------------
// settings

struct AttentionSettings {
  std::int64_t hidden = 0;
  std::int64_t num_q_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::optional<RopeSettings> rope{};
  /// No sequence gets longer; rope's tables have so many rows.
  std::int64_t max_positions = 0;
  float qk_norm_epsilon = 1e-6f;
  /// Masks, scale, softcap, normalizer.
  AttentionOptions options{.causal = Causal::bottom_right()};
  DType dtype = DType::f32;  // f32 or bf16
};

enum class NormKind { rms, layer };
struct NormSettings {
  NormKind kind = NormKind::rms;
  float epsilon = 1e-5f;
};

enum class MlpKind {
  swiglu,     // down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)
  gelu,       // down(gelu(up(x)))
  gelu_tanh,  // the same with gelu's tanh form
};

struct LayerSettings {
  AttentionSettings attention{};
  NormSettings norm{};
  MlpKind mlp = MlpKind::swiglu;
  std::int64_t mlp_width = 0;
};

struct DecoderSettings {
  LayerSettings layer{};
  std::int64_t num_layers = 0;
  std::int64_t vocab_size = 0;
};

// ----------------------------------------------------------------------------------------------------------------
// forward

/// Where a block finds its earlier keys and puts new ones. Made from a cache on the spot; does not
/// own it.
class CacheRef {
 public:
  /// None: a token sees the tokens of this forward alone.
  CacheRef() = default;
  /// All sequences of the cache are the batch.
  CacheRef(KvCache& cache) : contiguous_(&cache) {}  // NOLINT(google-explicit-constructor)
  /// One sequence of the cache is a batch of 1: prefill of prompts of different lengths, before
  /// they decode as one batch.
  CacheRef(KvCache& cache, std::int64_t sequence) : contiguous_(&cache), sequence_(sequence) {}
  /// These sequences are the batch. The span's memory has to last.
  CacheRef(PagedKvCache& cache, std::span<const PagedKvCache::Sequence> sequences)
      : paged_(&cache), sequences_(sequences) {}

  KvCache* contiguous() const noexcept { return contiguous_; }
  std::optional<std::int64_t> sequence() const noexcept { return sequence_; }
  PagedKvCache* paged() const noexcept { return paged_; }
  std::span<const PagedKvCache::Sequence> sequences() const noexcept { return sequences_; }

 private:
  KvCache* contiguous_ = nullptr;
  std::optional<std::int64_t> sequence_{};
  PagedKvCache* paged_ = nullptr;
  std::span<const PagedKvCache::Sequence> sequences_{};
};

enum class AttentionKernel { tiled, unfused, reference };

/// Where the time of forwards goes; they add to it.
struct ForwardTimes {
  using Duration = std::chrono::steady_clock::duration;
  Duration projections{};  // q, k, v, out
  Duration attention{};
  Duration cache{};  // appending; norms and rope of q and k
  Duration mlp{};
  Duration norms{};
  Duration embedding{};
  Duration output{};
};

/// What a forward shows of itself on its way, for inspection; each is called once for each layer,
/// in their order.
struct ForwardHooks {
  /// The attention call that comes next, output unwritten.
  std::function<void(const AttentionTensors& tensors, const AttentionOptions& options)> attention{};
  /// The residual stream [tokens, hidden] behind a layer.
  std::function<void(const TensorView& x)> layer{};
};

struct ForwardOptions {
  TensorView mask{};  // as in AttentionTensors, over all keys
  /// Without a cache: i32 or i64 [batch]. Tokens from kv_lens[b] on are padding, which no token
  /// sees. Token n stands at position n then, unless the options of the block name another
  /// position.
  TensorView kv_lens{};
  AttentionKernel kernel = AttentionKernel::tiled;
  ForwardTimes* times = nullptr;
  const ForwardHooks* hooks = nullptr;
};

/// Scratch memory of forwards, which grows as needed. Blocks and layers that never run at the same
/// time share one.
class ATTN_API ForwardScratch {
 public:
  ForwardScratch();
  ForwardScratch(ForwardScratch&&) noexcept;
  ForwardScratch& operator=(ForwardScratch&&) noexcept;
  ~ForwardScratch();
  std::size_t size_in_bytes() const noexcept;

  struct ATTN_HIDDEN Memory;
  Memory& memory() noexcept { return *memory_; }

 private:
  std::unique_ptr<Memory> memory_;
};

/// Multi-head attention with its projections (Vaswani et al. 2017, arXiv:1706.03762), grouped heads
/// included.
class ATTN_API AttentionBlock {
 public:
  /// Throws Error(invalid_argument) for settings or weights that do not fit, naming them. Without
  /// `activations` it has its own.
  AttentionBlock(const AttentionSettings& settings, const AttentionParameters& weights,
                 const Execution& execution = {}, std::shared_ptr<ForwardScratch> activations = {});
  AttentionBlock(AttentionBlock&&) noexcept;
  AttentionBlock& operator=(AttentionBlock&&) noexcept;
  ~AttentionBlock();

  const AttentionSettings& settings() const noexcept;
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const noexcept;

  /// x [batch, seq, hidden] f32, bf16 or f16, y the same or another of these types; any strides. y
  /// may be the memory of x. Throws Error before anything is written to y: invalid_argument for
  /// what does not fit, exhausted for a cache without enough room.
  void forward(const TensorView& x, const CacheRef& cache, const MutableTensorView& y,
               const ForwardOptions& options = {});

 private:
  friend class TransformerLayer;
  struct ATTN_HIDDEN Parts;
  std::unique_ptr<Parts> parts_;
};

class ATTN_API TransformerLayer {
 public:
  TransformerLayer(const LayerSettings& settings, const LayerWeights& weights,
                   const Execution& execution = {},
                   std::shared_ptr<ForwardScratch> activations = {});
  TransformerLayer(TransformerLayer&&) noexcept;
  TransformerLayer& operator=(TransformerLayer&&) noexcept;
  ~TransformerLayer();

  const LayerSettings& settings() const noexcept;
  std::size_t size_in_bytes() const noexcept;

  /// x: the residual stream, f32 [batch, seq, hidden], dense; it is changed in place. Throws as
  /// AttentionBlock::forward.
  void forward(const MutableTensorView& x, const CacheRef& cache,
               const ForwardOptions& options = {});

 private:
  friend class Decoder;
  struct ATTN_HIDDEN Parts;
  std::unique_ptr<Parts> parts_;
};

class ATTN_API Decoder {
 public:
  Decoder(const DecoderSettings& settings, const DecoderWeights& weights,
          const Execution& execution = {});
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  const DecoderSettings& settings() const noexcept;
  /// Bytes of packed weights; and those of what is used where it lies.
  std::size_t size_in_bytes() const noexcept;
  std::size_t in_place_bytes() const noexcept;
  /// Bytes of weights that a forward of one token reads: all but most rows of the embedding, if
  /// that is not the output as well, and of the positions.
  std::size_t bytes_read_per_step() const noexcept;
  /// Of scratch memory, as far as it has grown.
  std::size_t activation_bytes() const noexcept;

  /// ids: i32 or i64 [batch, seq]. caches: one for each layer, its own, all at the same positions.
  /// logits: f32 [batch, vocab_size], of each sequence's last token, or [batch, seq, vocab_size];
  /// absent: none are computed. Throws as AttentionBlock::forward, for ids outside the vocabulary
  /// too.
  void forward(const TensorView& ids, std::span<const CacheRef> caches,
               const MutableTensorView& logits, const ForwardOptions& options = {});

 private:
  struct ATTN_HIDDEN Parts;
  std::unique_ptr<Parts> parts_;
};

/// A contiguous cache for each layer, of the compute type unless another is named.
ATTN_API std::vector<KvCache> make_caches(const DecoderSettings& settings, std::int64_t batch,
                                          std::int64_t capacity, std::optional<DType> dtype = {});

}  // namespace attn
