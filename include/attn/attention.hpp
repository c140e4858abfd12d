// Scaled dot-product attention, forward.
//
//   S = softmax_scale * Q K^T;  softcap;  + ALiBi;  + additive mask;  score_mod;  visibility;  P =
//   softmax(S);  O = P V
//
// or P = sigmoid(S), sparsemax(S), entmax(S): normalizer.hpp.
//
//   Q    [batch, num_q_heads,  q_len,  head_dim  ]        group_size = num_q_heads / num_kv_heads
//   K    [batch, num_kv_heads, kv_len, head_dim  ]        query head h reads KV head h / group_size
//   V    [batch, num_kv_heads, kv_len, v_head_dim]
//   O    [batch, num_q_heads,  q_len,  v_head_dim]
//   lse  [batch, num_q_heads,  q_len]                     natural log of the sum of exp of the
//   visible scores and the sink
//
// O is computed in tiles with an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao
// 2023, arXiv:2307.08691): scores exist for a few rows and one block of keys at a time, in f32, and
// never as a q_len x kv_len matrix. With another normalizer than softmax, they exist for six rows
// and all of the keys at a time.
//
// Promises. A hidden key never reaches the result, whatever K and V hold there, NaN included. A row
// that sees no key gives O = 0 and lse = -inf (with a sink: lse = sink). A score of -inf weighs
// nothing, wherever it comes from; visible NaN and +inf follow IEEE 754 and touch only their own
// rows. The same call gives the same bits for any number of threads and any other content of the
// batch.
#pragma once

#include <attn/isa.hpp>
#include <attn/mask.hpp>
#include <attn/normalizer.hpp>
#include <attn/tensor.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace attn {

/// The data of a call. Q, K, V and O are f32, bf16 or f16, K and V of one type; any strides. Optional
/// tensors are left out by default. Caches (kv_cache.hpp) fill in k, v and what says where keys
/// lie; all of it can be given by hand as well.
struct AttentionTensors {
  TensorView q{}, k{}, v{};
  MutableTensorView out{};

  /// Boolean (true = visible) or additive (f32, bf16, f16; -inf hides), [q_len, kv_len],
  /// [num_q_heads, q_len, kv_len] or [batch, num_q_heads, q_len, kv_len]. Each dim is equal or 1
  /// (broadcast); a last dim shorter than kv_len hides the rest.
  TensorView mask{};
  /// f32 [num_q_heads]: the score of key j gets -slope * |p - j|.
  TensorView alibi_slopes{};
  /// f32 [num_q_heads]: one more score in each row's denominator, neither scaled nor capped; -inf
  /// is no sink. With sparsemax and entmax, one more score that takes its share of the weight;
  /// sigmoid has no use for it, and refuses it.
  TensorView sinks{};
  /// i32 or i64 [batch], each in 0..kv_len: keys from kv_lens[b] on are hidden. Read at run time.
  TensorView kv_lens{};
  /// f32, written. Of softmax alone: other normalizers have none, and refuse it.
  MutableTensorView lse{};

  // Ragged batches: sequences one after another, without padding. With q_offsets, q and out are
  // [tokens, num_q_heads, dim] and lse [tokens, num_q_heads]; with kv_offsets, k and v are [tokens,
  // num_kv_heads, dim]. Either may stand alone.
  /// i32 or i64 [batch + 1], from 0 to the number of tokens, never falling: sequence b has tokens
  /// offsets[b] to offsets[b + 1] - 1.
  TensorView q_offsets{};
  TensorView kv_offsets{};

  // Where the keys of a cache lie; kv_lens is needed with either.
  /// i32 [batch, max_pages]: k and v are pools [num_pages, num_kv_heads, page_size, dim], and key j
  /// of batch entry b is row j % page_size of page page_table[b][j / page_size]. Entries beyond the
  /// length of b are not read.
  TensorView page_table{};
  /// i32 or i64 [batch], each in 0..capacity - 1: k and v are rings [batch, num_kv_heads, capacity,
  /// dim], and key j of batch entry b is row (kv_starts[b] + j) % capacity.
  TensorView kv_starts{};

  /// With k and v of i8: f32, the shape of k without its last dim. A key is k_scales[..] * k[..,
  /// :], a value v_scales[..] * v[.., :]. A scale is finite, or NaN; what rows that see an infinite
  /// one become is not specified.
  TensorView k_scales{};
  TensorView v_scales{};
};

/// Which matmul makes the scores of whole tiles. Edges, masked tiles and P V always take the
/// built-in micro-kernel, and ragged batches and normalizers other than softmax take it for
/// everything.
enum class ScoreMatmul {
  built_in,
  onednn,  // oneDNN's matmul primitive; it allocates a little inside each execution
};

/// The settings of a call.
struct AttentionOptions {
  std::optional<float> softmax_scale{};  // default 1 / sqrt(head_dim)
  std::optional<float> softcap{};        // c > 0: s -> c * tanh(s / c)
  std::optional<Causal> causal{};
  std::optional<Window> window{};
  ScoreMod score_mod{};
  MaskMod mask_mod{};
  Normalizer normalizer{};  // default: softmax
  std::optional<int>
      num_threads{};         // default: OpenMP's; inside a caller's own parallel region always 1
  std::optional<Isa> isa{};  // default: default_isa()
  ScoreMatmul score_matmul = ScoreMatmul::built_in;
  // Of a ragged batch: no sequence is longer, or running it is an Error. Default: all tokens;
  // attention() looks at the offsets itself. They bound a plan's workspace.
  std::optional<std::int64_t> max_q_len{};
  std::optional<std::int64_t> max_kv_len{};
};

/// Computes O (and lse). Throws Error before anything is written: invalid_argument for shapes,
/// types or options that do not fit each other, unsupported for an ISA that this processor lacks.
void attention(const AttentionTensors& tensors, const AttentionOptions& options = {});
void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const MutableTensorView& out, const AttentionOptions& options = {});

/// Scratch memory for one run at a time of any plan that is no larger.
class Workspace {
 public:
  explicit Workspace(std::size_t size_in_bytes);
  /// Memory of the caller's, any alignment; it is not freed.
  Workspace(void* memory, std::size_t size_in_bytes) noexcept;

  void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };
  std::unique_ptr<void, Free> owned_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A call prepared once and run many times. Making it checks shapes and options; running it
/// allocates nothing (with ScoreMatmul::onednn, oneDNN itself does) and may happen on several
/// threads at once with one workspace each.
class AttentionPlan {
 public:
  /// Shapes, types and presence of the tensors count; their data is not touched and may be null.
  explicit AttentionPlan(const AttentionTensors& tensors, const AttentionOptions& options = {});

  /// Bytes that run needs.
  std::size_t workspace_size() const noexcept;
  /// At most so many: as asked for, but no more than there is work to share.
  int num_threads() const noexcept;
  Isa isa() const noexcept;
  /// The way taken, in words: "avx512 f32, score matmul built in, ...".
  std::string description() const;

  /// Tensors may lie elsewhere and have other strides than those the plan was made from; shapes,
  /// types and presence are the same.
  void run(const AttentionTensors& tensors, Workspace& workspace) const;

 private:
  struct Prepared;
  std::shared_ptr<const Prepared> prepared_;
};

}  // namespace attn
