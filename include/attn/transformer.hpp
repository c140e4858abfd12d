// Transformer layers for inference: an attention block with its projections and KV cache, a layer
// with its MLP, and a decoder of layers.
//
//   AttentionBlock     y = out(attention(rope(norm(q(x))), K, V)); K and V are all keys and values
//                      of the cache, to which rope(norm(k(x))) and v(x) are appended first
//   TransformerLayer   x += attention(norm(x)), then x += mlp(norm(x)); NormPlacement has the
//                      other orders
//   Decoder            logits = output(norm(layers(embedding(ids) + positions)))
//
// Tokens are [batch, seq, hidden]. All sequences of a batch get the same number of new tokens, but
// may have different numbers of keys in the cache. Prefill, append and decode are one call,
// forward(): it appends the keys and values of its tokens to the cache, then attends to all keys
// that the cache holds.
//
// Rolling caches. Each token finds its whole window, however many tokens a forward has: where later
// tokens would overwrite keys that earlier ones need, the forward appends and attends to some at a
// time. This takes a capacity of the window's `left` + 1 keys or more. Without a window to the
// left, the capacity is the window: a token sees the last `capacity` keys, its own included.
// Results agree with those of an ample cache to rounding, except those of sigmoid without a bias of
// its own: its -log(n) counts the keys that the cache holds. Error(exhausted) is thrown, before
// anything changes, where a token would miss keys: for a smaller capacity, after overwritten keys
// have been truncated away, and if all tokens do not fit at once and may not be divided, because a
// mask, a mod or a named position counts keys or because a token sees later ones.
//
// Types. settings.dtype is the compute type: f32 or bf16. With bf16, the weights, the inputs of
// products, queries, keys and values are bf16; sums, norms and the residual stream are f32. Weights
// of another type are converted once, by the constructor. Where the instruction set does not
// multiply bf16, and for an odd number of inputs, weights are widened and multiplied as f32.
//
// Lifetime of weights. Constructors pack projections into the panels that oneDNN's matmul (8 rows
// and more) and the library's micro-kernel (fewer rows: decode; any number in a build without
// oneDNN) read, and copy norms and biases. The views of these may become invalid afterwards. The
// embedding, positions, the output's weight, sinks and slopes are not copied, and have to outlive
// the object.
//
// Threads and memory. Objects hold scratch memory, so an object can run one forward at a time. A
// decode step of up to 7 tokens with the shapes of the step before allocates nothing, with two
// exceptions: the page table of a PagedKvCache grows now and then, and norms of 16-bit rows of more
// than 8192 elements allocate. With more tokens, oneDNN allocates a little inside each product.
//
// Errors. Arguments are checked before anything is written. If a forward throws later
// (Error(exhausted) of a pool of pages, std::bad_alloc, or an exception that leaves a hook or a
// mod), the new keys are removed from its caches again. A rolling cache does not get back the keys
// that had been overwritten by then; if those were all of its keys, it has to be cleared. An
// object that was moved from can only be destroyed or assigned to: its functions throw
// Error(invalid_argument).
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
namespace detail {
class LayerStack;
}

// -------------------------------------------------------------------------------------------------
// Weights

/// The weights of a projection y = x W^T + bias.
struct LinearWeights {
  /// f32, bf16 or f16 [out, in]. Any strides are accepted: those of a transposed view of [in, out],
  /// or of some rows of a fused weight.
  TensorView weight{};
  TensorView bias{};  // [out]; may be absent
};
/// The projection to outputs begin..end-1 of a fused projection. It views the same memory.
ATTN_API LinearWeights part_of(const LinearWeights& fused, std::int64_t begin, std::int64_t end);

/// The weights of a norm, each [width], f32, bf16 or f16: y = normalized(x) * (scale +
/// scale_offset) + bias. Only a layer norm has a bias, which may be absent.
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
  /// Scales of norms of q and k before RoPE. With [head_dim], each head is normalized alone; with
  /// [num_q_heads * head_dim] ([num_kv_heads * head_dim] for k), all heads of a token together.
  TensorView q_norm{};
  TensorView k_norm{};
  TensorView alibi_slopes{};  // as AttentionTensors::alibi_slopes
  TensorView sinks{};         // as AttentionTensors::sinks
};

struct MlpWeights {
  LinearWeights gate{};  // [mlp_width, hidden]; absent unless the MLP has a gate
  LinearWeights up{};    // [mlp_width, hidden]
  LinearWeights down{};  // [hidden, mlp_width]
};

/// The norms that NormPlacement names; the others are absent.
struct LayerWeights {
  NormWeights attention_norm{};
  AttentionParameters attention{};
  NormWeights attention_post_norm{};
  NormWeights mlp_norm{};
  MlpWeights mlp{};
  NormWeights mlp_post_norm{};
};

struct DecoderWeights {
  TensorView embedding{};  // [vocab_size, hidden]
  /// Learned positions [max_positions, hidden], with the least max_positions of all layers. Absent
  /// if the model has none.
  TensorView positions{};
  std::vector<LayerWeights> layers{};
  NormWeights final_norm{};
  TensorView output{};  // [vocab_size, hidden]; if absent, the embedding is used (tied weights)
};

// -------------------------------------------------------------------------------------------------
// Settings

enum class NormKind { rms, layer };
struct NormSettings {
  NormKind kind = NormKind::rms;
  float epsilon = 1e-5f;
  float scale_offset = 0;  // added to the scale; 1 where files hold the scale's distance from 1
};

struct AttentionSettings {
  std::int64_t hidden = 0;
  std::int64_t num_q_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::optional<RopeSettings> rope{};  // absent: q and k are not rotated
  /// The largest number of tokens in a sequence, and of rows in the tables of RoPE.
  std::int64_t max_positions = 0;
  NormSettings qk_norm{.epsilon = 1e-6f};
  /// Masks, scale, softcap and normalizer of every attention call of the block. Without block_mask,
  /// which is for one number of tokens: Error(unsupported).
  AttentionOptions options{.causal = Causal::bottom_right()};
  DType dtype = DType::f32;  // f32 or bf16
};

enum class MlpKind {
  swiglu,      // down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)
  gelu,        // down(gelu(up(x)))
  gelu_tanh,   // the same with gelu's tanh form
  geglu,       // down(gelu(gate(x)) * up(x))
  geglu_tanh,  // the same with gelu's tanh form
};

/// Where norms stand around f, which is first the attention, then the MLP of a layer. `norm` is
/// attention_norm or mlp_norm, `post` is attention_post_norm or mlp_post_norm.
enum class NormPlacement {
  before,     // x += f(norm(x)) (GPT-2, Llama)
  after,      // x += post(f(x)) (OLMo 2)
  both,       // x += post(f(norm(x))) (Gemma 2 and 3)
  after_sum,  // x = post(x + f(x)) (BERT; post-norm, as Vaswani et al. 2017 have it)
};

/// Settings of one layer. `norm` is that of all norms of the layer but those of q and k.
struct LayerSettings {
  AttentionSettings attention{};
  NormSettings norm{};
  NormPlacement norm_placement = NormPlacement::before;
  MlpKind mlp = MlpKind::swiglu;
  std::int64_t mlp_width = 0;
};

/// Settings of a decoder. Layers may differ in all but `hidden`. For n layers that are the same:
///   {.layers = std::vector<LayerSettings>(n, layer), .vocab_size = vocab_size}
/// The norm behind the last layer has that layer's NormSettings.
struct DecoderSettings {
  std::vector<LayerSettings> layers{};
  std::int64_t vocab_size = 0;
  float embedding_scale = 1;             // embeddings are multiplied by it
  std::optional<float> logit_softcap{};  // c > 0: logits become c * tanh(logits / c)
};

// -------------------------------------------------------------------------------------------------
// Forward

/// The implementation of attention that a forward calls: attention(), attention_unfused() or
/// attention_reference().
enum class AttentionKernel { tiled, unfused, reference };

/// The time that forwards took, by part. A forward adds to each part.
struct ForwardTimes {
  using Duration = std::chrono::steady_clock::duration;
  Duration projections{};  // q, k, v and out
  Duration attention{};
  Duration cache{};  // appending keys and values; norms and RoPE of q and k
  Duration mlp{};
  Duration norms{};
  Duration embedding{};
  Duration output{};
};

/// Functions that a forward calls so that a user can inspect its intermediate values. Each is
/// called once per layer, in the order of the layers. An absent function is not called.
///
/// Where a rolling cache is too small for all tokens at once, `attention` is called once for each
/// part of them.
struct ForwardHooks {
  /// Called before the attention call with these arguments; its output is not written yet.
  std::function<void(const AttentionTensors& tensors, const AttentionOptions& options)> attention{};
  /// Called after a layer with the residual stream, f32 [batch * seq, hidden].
  std::function<void(const TensorView& x)> layer{};
};

struct ForwardOptions {
  /// As AttentionTensors::mask: over all keys of the cache, or over the last ones if the options of
  /// the block say MaskKeys::last.
  TensorView mask{};
  /// i32 or i64 [batch], allowed only without a cache. Tokens from kv_lens[b] on are padding, which
  /// no token attends to. Token n then stands at position n, unless the options of the block name
  /// another position.
  TensorView kv_lens{};
  /// i32 or i64 [batch + 1]: ragged tokens. x is then [1, tokens, hidden] and ids are [1, tokens],
  /// the new tokens of one sequence after another; sequence b has those from q_offsets[b] to
  /// q_offsets[b + 1] - 1, which may be none. No padding is computed, and each sequence gets the
  /// bits that it gets in a ragged forward of its own.
  TensorView q_offsets{};
  AttentionKernel kernel = AttentionKernel::tiled;
  ForwardTimes* times = nullptr;        // null: times are not measured
  const ForwardHooks* hooks = nullptr;  // null: none
};

/// Scratch memory of forwards, which grows as needed. Blocks and layers that never run at the same
/// time can share one.
class ATTN_API ForwardScratch {
 public:
  ForwardScratch();
  ForwardScratch(ForwardScratch&&) noexcept;
  ForwardScratch& operator=(ForwardScratch&&) noexcept;
  ~ForwardScratch();
  std::size_t size_in_bytes() const noexcept;

  struct ATTN_HIDDEN Memory;  // for the library alone
  ATTN_HIDDEN Memory& memory();

 private:
  std::unique_ptr<Memory> memory_;
};

/// Multi-head attention with its projections (Vaswani et al. 2017, arXiv:1706.03762). With
/// num_kv_heads < num_q_heads it is grouped-query attention (Ainslie et al. 2023,
/// arXiv:2305.13245).
class ATTN_API AttentionBlock {
 public:
  /// Throws Error(invalid_argument), which names the setting or the weight, if one does not fit.
  /// Without `scratch` the block has scratch memory of its own.
  AttentionBlock(const AttentionSettings& settings, const AttentionParameters& weights,
                 const Execution& execution = {}, std::shared_ptr<ForwardScratch> scratch = {});
  AttentionBlock(AttentionBlock&&) noexcept;
  AttentionBlock& operator=(AttentionBlock&&) noexcept;
  ~AttentionBlock();

  const AttentionSettings& settings() const;
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const;

  /// x and y [batch, seq, hidden], each f32, bf16 or f16, any strides, at any address. y may be the
  /// memory of x.
  ///
  /// Throws before anything is written to y: Error(invalid_argument), which names the argument that
  /// does not fit, or Error(exhausted) for a cache without enough room, or a rolling one that does
  /// not hold the keys that a token needs.
  void forward(const TensorView& x, const CacheRef& cache, const MutableTensorView& y,
               const ForwardOptions& options = {});

 private:
  friend class TransformerLayer;
  struct ATTN_HIDDEN Impl;
  ATTN_HIDDEN Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// An attention block and an MLP, each with a residual connection around it and with norms where
/// NormPlacement says.
class ATTN_API TransformerLayer {
 public:
  /// Throws and uses `scratch` as AttentionBlock does.
  TransformerLayer(const LayerSettings& settings, const LayerWeights& weights,
                   const Execution& execution = {}, std::shared_ptr<ForwardScratch> scratch = {});
  TransformerLayer(TransformerLayer&&) noexcept;
  TransformerLayer& operator=(TransformerLayer&&) noexcept;
  ~TransformerLayer();

  const LayerSettings& settings() const;
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const;

  /// x is the residual stream, f32 [batch, seq, hidden], dense. It is changed in place. Throws as
  /// AttentionBlock::forward does; if a hook or an allocation fails, x is unspecified.
  void forward(const MutableTensorView& x, const CacheRef& cache,
               const ForwardOptions& options = {});

 private:
  friend class detail::LayerStack;
  struct ATTN_HIDDEN Impl;
  ATTN_HIDDEN Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// A decoder-only language model: embedding, layers, a last norm and the output projection.
class ATTN_API Decoder {
 public:
  /// Throws Error(invalid_argument) if a setting or a weight does not fit, or if layers differ in
  /// hidden. The message names it and its layer.
  Decoder(const DecoderSettings& settings, const DecoderWeights& weights,
          const Execution& execution = {});
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  const DecoderSettings& settings() const;
  /// Bytes of packed weights.
  std::size_t size_in_bytes() const;
  /// Bytes of weights that are used where they lie: embedding, positions, output.
  std::size_t in_place_bytes() const;
  /// Bytes of weights that a forward of one token reads: the packed ones and the output's. The few
  /// rows of the embedding and of the positions are not counted.
  std::size_t bytes_read_per_step() const;
  /// Bytes of scratch memory that forwards have needed so far.
  std::size_t scratch_bytes() const;

  /// ids      i32 or i64 [batch, seq], each in 0..vocab_size-1
  /// caches   one per layer; no two share keys, and all stand at the same positions
  /// logits   f32, dense: [batch, vocab_size] for the last token of each sequence, or
  ///          [batch, seq, vocab_size]; if absent, none are computed
  ///
  /// Throws as AttentionBlock::forward does.
  void forward(const TensorView& ids, std::span<const CacheRef> caches,
               const MutableTensorView& logits, const ForwardOptions& options = {});

 private:
  struct ATTN_HIDDEN Impl;
  ATTN_HIDDEN Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// What the cache of a layer with a causal window keeps.
enum class WindowKeys {
  all,
  /// The last keys: the window, and as many again but at most 128, so that a prompt is appended
  /// many tokens at a time. The cache is a rolling one where that is less than the capacity; tokens
  /// that it has overwritten cannot be truncated away.
  window,
};

/// Contiguous caches for a decoder, one per layer, with the layer's heads and dims. Each is of its
/// layer's compute type unless `dtype` names another. capacity is in keys per sequence.
ATTN_API std::vector<KvCache> make_caches(const DecoderSettings& settings, std::int64_t batch,
                                          std::int64_t capacity, std::optional<DType> dtype = {},
                                          WindowKeys keys = WindowKeys::all);

}  // namespace attn
