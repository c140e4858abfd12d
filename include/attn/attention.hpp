// Scaled dot-product attention, forward.
//
//   S = softmax_scale * Q K^T        scale
//   S = softcap * tanh(S / softcap)  softcap, if given
//   S = S - slope * |p - j|          ALiBi, if given; p is the query's position, j the key's index
//   S = S + mask                     additive mask, if given
//   S = score_mod(S)                 the user's function, if given
//   S = -inf where a key is hidden   causal, window, boolean mask, kv_lens, mask_mod (mask.hpp),
//                                    block_mask (block_mask.hpp)
//   P = softmax(S)                   over the keys of a row, and its sink if it has one
//   O = P V
//
// P may also be sigmoid(S), sparsemax(S) or entmax(S): normalizer.hpp.
//
//   Q    [batch, num_q_heads,  q_len,  head_dim  ]    group_size = num_q_heads / num_kv_heads
//   K    [batch, num_kv_heads, kv_len, head_dim  ]    query head h reads KV head h / group_size
//   V    [batch, num_kv_heads, kv_len, v_head_dim]
//   O    [batch, num_q_heads,  q_len,  v_head_dim]
//   lse  [batch, num_q_heads,  q_len]                 natural log of the sum of exp of the visible
//                                                     scores and the sink
//
// O is computed in tiles with an online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao
// 2023, arXiv:2307.08691): scores exist for a few rows and one block of keys at a time, in f32, and
// never as a q_len x kv_len matrix. Normalizers other than softmax hold the scores of six rows and
// all of their keys at a time.
//
// Guarantees. A hidden key never changes the result, whatever K and V hold there, NaN included. A
// row that sees no key gives O = 0 and lse = -inf (with a sink: lse = sink). A key with a score of
// -inf has probability 0; visible NaN and +inf follow IEEE 754 and change only the rows that see
// them. The same call gives the same bits for any number of threads and any other content of the
// batch.
#pragma once

#include <attn/block_mask.hpp>
#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/isa.hpp>
#include <attn/kv_storage.hpp>
#include <attn/mask.hpp>
#include <attn/normalizer.hpp>
#include <attn/tensor.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace attn {

/// The data of a call. Q, K, V and O are each f32, bf16 or f16; K and V have the same type. Strides
/// may be anything that BasicTensorView allows. Inputs may overlap: V can be a view of a part of K
/// (multi-head latent attention), which is then read in place. O and lse overlap neither an input
/// nor each other. Optional tensors are absent by default.
struct AttentionTensors {
  TensorView q{}, k{}, v{};
  MutableTensorView out{};

  /// Boolean (true = visible) or additive (f32, bf16, f16; -inf hides) of shape [kv_len], [q_len,
  /// kv_len], [num_q_heads, q_len, kv_len] or [batch, num_q_heads, q_len, kv_len]. Each dim may be
  /// 1 instead (broadcast). A last dim shorter than kv_len hides the keys beyond it. With q_offsets
  /// its rows are the tokens of all sequences, as those of q: [keys], [tokens, keys] or
  /// [num_q_heads, tokens, keys], where keys is the length of the longest sequence or less. With
  /// MaskKeys::last the last dim is any number n of keys up to kv_len: the last n of each sequence.
  TensorView mask{};
  /// f32 [num_q_heads]: the score of key j becomes s - slope * |p - j|.
  TensorView alibi_slopes{};
  /// f32 [num_q_heads]: one more score in the denominator of each row, neither scaled nor capped;
  /// -inf is no sink. With sparsemax and entmax it takes its share of the probability. Sigmoid has
  /// no denominator and refuses sinks.
  TensorView sinks{};
  /// i32 or i64 [batch], each in 0..kv_len: keys from kv_lens[b] on are hidden. Read in each run.
  TensorView kv_lens{};
  /// f32, written. Only softmax has an lse; other normalizers refuse it.
  MutableTensorView lse{};

  /// Where keys and values lie: contiguous by default, in rings or in pages; scales of i8.
  KvStorage storage{};
  /// Offsets of sequences that stand one after another without padding.
  Ragged ragged{};
};

/// Who multiplies Q and K^T, and P and V, of whole tiles: all rows of a block against all keys of
/// one, where no row's range of keys (causal, window, kv_lens) ends within it. The rest of such
/// blocks takes the built-in micro-kernel, and so do P and V of normalizers other than softmax,
/// which skip probabilities of 0. In attention_backward(): Q and K^T, and dout and V^T. Every
/// option and type is served.
enum class ScoreMatmul {
  /// oneDNN where it has an instruction set for the type that the library has no kernels for: AMX,
  /// for Q, K and V of bf16. Else, and for few rows, which are not multiplied in tiles, built_in.
  automatic,
  built_in,
  /// oneDNN, also for few rows, whose K and V are then packed. f16 and i8 are widened to f32, and
  /// bf16 where the ISA or oneDNN does not multiply it. Its primitives allocate a little in each
  /// execution. Error(unsupported) in a build without oneDNN, and where oneDNN cannot make a
  /// matmul.
  onednn,
};

/// What a call computes.
struct AttentionOptions {
  std::optional<float> softmax_scale{};  // default 1 / sqrt(head_dim)
  std::optional<float> softcap{};        // c > 0: s -> c * tanh(s / c)
  std::optional<Causal> causal{};
  std::optional<Window> window{};
  /// Where the queries stand, with a causal mask or without one. Default: the position that
  /// `causal` names, else bottom-right. It is an Error if `causal` names another one.
  std::optional<QueryPosition> q_position{};
  ScoreMod score_mod{};
  ScoreModGradient score_mod_gradient{};  // of score_mod; only attention_backward() calls it
  MaskMod mask_mod{};
  MaskKeys mask_keys = MaskKeys::first;  // which keys the columns of AttentionTensors::mask are
  /// Which blocks of queries and keys are hidden, fully visible, or decided by mask_mod and the
  /// mask (block_mask.hpp). Its batch is 1 or that of the call, its num_q_heads likewise, its q_len
  /// and kv_len are those of the call: kv_len is the capacity of a ring, max_pages * page_size of
  /// pages. Ragged batches refuse it: Error(unsupported).
  std::optional<BlockMask> block_mask{};
  Normalizer normalizer{};  // default: softmax
  ScoreMatmul score_matmul = ScoreMatmul::automatic;

  /// Where the queries stand: as q_position says, else as `causal` says, else bottom-right.
  QueryPosition query_position() const noexcept {
    if (q_position) return *q_position;
    return causal && causal->position ? *causal->position : QueryPosition::bottom_right();
  }
};

/// Computes O (and lse). Throws Error before anything is written: invalid_argument for shapes,
/// types or options that do not fit each other, unsupported for an ISA that this processor lacks.
ATTN_API void attention(const AttentionTensors& tensors, const AttentionOptions& options = {},
                        const Execution& execution = {});
ATTN_API void attention(const TensorView& q, const TensorView& k, const TensorView& v,
                        const MutableTensorView& out, const AttentionOptions& options = {},
                        const Execution& execution = {});

/// Scratch memory for one run at a time of any plan that needs no more.
class ATTN_API Workspace {
 public:
  explicit Workspace(std::size_t size_in_bytes);
  /// Uses memory of the caller, of any alignment, and does not free it. Throws
  /// Error(invalid_argument) for a null pointer to more than 0 bytes.
  Workspace(void* memory, std::size_t size_in_bytes);
  /// A workspace that was moved from has 0 bytes.
  Workspace(Workspace&& other) noexcept;
  Workspace& operator=(Workspace&& other) noexcept;

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

/// A call that is prepared once and run many times. The constructor checks shapes and options. A
/// run allocates nothing (with ScoreMatmul::onednn, oneDNN itself does). Several threads may run
/// one plan at the same time, each with its own workspace. Functions of a plan that was moved from
/// throw Error(invalid_argument).
class ATTN_API AttentionPlan {
 public:
  /// Only shapes, types and presence of the tensors count; their data is not read and may be null.
  /// Throws Error(invalid_argument) if the sizes that they lead to overflow 64 bits.
  explicit AttentionPlan(const AttentionTensors& tensors, const AttentionOptions& options = {},
                         const Execution& execution = {});

  /// Bytes that a run needs.
  std::size_t workspace_size() const;
  /// The number of threads of a run: at most as many as were asked for, fewer if there is less
  /// work.
  int num_threads() const;
  Isa isa() const;
  /// How the call is computed, for people: "tiled, avx512 kernels, f32 multiplied, ...".
  std::string description() const;

  /// The data and strides of the tensors may differ from those that the plan was made from; shapes,
  /// types and presence must be the same.
  void run(const AttentionTensors& tensors, Workspace& workspace) const;

 private:
  struct ATTN_HIDDEN Prepared;
  std::shared_ptr<const Prepared> prepared_;
};

}  // namespace attn
