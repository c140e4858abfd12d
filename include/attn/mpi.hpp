// Attention over a sequence that is cut over the ranks of an MPI communicator. This is a library of
// its own: link attn::mpi. Every function here is collective: all ranks of the communicator call
// it.
//
//   RingAttention     each rank has a part of Q, K and V. The parts of K and V go round the ring
//                     while each rank computes with the part that it has (Liu et al. 2023,
//                     arXiv:2310.01889); the results are merged (state.hpp)
//   tree_attention    decoding: each rank has a part of the cache, and all have the query. One
//                     exchange of (O, lse), merged in the order of the ranks (Shyam et al. 2024,
//                     arXiv:2408.04093)
//   ShardedKvCache    a cache whose keys lie on all ranks
//
// Four ranks and 16 tokens; the digit says which rank owns the token. In a causal call each rank
// has as many visible pairs as the others with the zigzag cut, and the last has most with the even
// one:
//
//   SequenceCut::even(16, 4)      0 0 0 0 1 1 1 1 2 2 2 2 3 3 3 3
//   SequenceCut::zigzag(16, 4)    0 0 1 1 2 2 3 3 3 3 2 2 1 1 0 0
//
// The tensors of a rank hold its tokens one after another, in the order of the whole sequence. All
// else is said of the whole: positions, causal offsets and windows, kv_lens, the columns of a mask,
// and the indices that score_mod and mask_mod receive.
//
// Guarantees. Results are those of the single call, to the rounding of merge(). For a number of
// ranks and a cut they have the same bits from run to run, for any number of threads and whatever
// arrives first: results and gradients are added up in the order of the ring, or of the ranks.
//
// An Error on one rank is an Error on all of them, with the same message: a rank that fails tells
// the others, which stop computing at the end of their present piece of work (up to 2^34 flops, or
// one KV head), and nobody waits for a message that does not come. Arguments are compared between
// the ranks in one small exchange before anything is computed, and outputs are written only when no
// rank has failed. What a function of the caller throws on one rank is an Error on all. A rank
// whose process ends is not an Error: mpirun ends the others.
//
// MPI. Only the thread that calls makes calls of MPI (MPI_THREAD_FUNNELED); another thread of the
// library computes meanwhile. Errors of MPI itself are left to the handler of the communicator,
// which by default ends all ranks.
#pragma once

#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/kv_cache.hpp>
#include <attn/tensor.hpp>

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace attn {

/// Tokens begin, ..., end - 1 of a sequence.
struct TokenRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const noexcept { return end - begin; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

/// Which tokens of a sequence each rank owns.
class ATTN_API SequenceCut {
 public:
  /// ranges[r] are those of rank r, in ascending order; a rank may own none. Throws
  /// Error(invalid_argument) unless each token 0, ..., length - 1 belongs to exactly one range.
  explicit SequenceCut(std::vector<std::vector<TokenRange>> ranges);
  /// One range for each rank, of lengths that differ by 1 at most.
  static SequenceCut even(std::int64_t length, int num_ranks);
  /// Of 2 n stretches, rank r owns number r and number 2 n - 1 - r: balanced for causal calls whose
  /// queries are the keys.
  static SequenceCut zigzag(std::int64_t length, int num_ranks);

  /// Extends the sequence by tokens of a rank. Throws Error(invalid_argument) for a rank that is
  /// out of range, and for a negative count.
  void append(int rank, std::int64_t count);
  /// Takes away the tokens from `length` on. Throws Error(invalid_argument) if there are fewer.
  void truncate(std::int64_t length);

  int num_ranks() const noexcept { return static_cast<int>(ranges_.size()); }
  std::int64_t length() const noexcept { return length_; }
  /// What a rank owns: not empty, not adjacent, in ascending order.
  const std::vector<TokenRange>& ranges(int rank) const;
  std::int64_t num_tokens(int rank) const;

  friend bool operator==(const SequenceCut&, const SequenceCut&) = default;

 private:
  std::vector<std::vector<TokenRange>> ranges_;
  std::int64_t length_ = 0;
};

/// How a call is cut. Queries and keys may be cut in different ways.
struct RingCut {
  SequenceCut queries;
  SequenceCut keys;
};

/// What the last run of a rank did. A block is the K and V of one rank.
struct ATTN_API RingStatistics {
  double compute_seconds = 0;
  /// Of these, nothing was computed.
  double wait_seconds = 0;
  /// In which a message to or from this rank was on its way. What was not waited for was hidden
  /// behind the computation.
  double communication_seconds = 0;
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
  std::int64_t blocks_computed = 0;
  std::int64_t blocks_skipped = 0;  // no query of this rank sees a key of them
  /// The most buffers for blocks of K and V that were in use at a time, beside the rank's own K and
  /// V: at most 2.
  std::int64_t most_blocks_held = 0;

  /// The share of the communication during which this rank computed: 1 where there was none.
  double hidden_share() const noexcept;
};

/// A call over a cut sequence that is prepared once and run many times.
///
/// Tensors of rank r, with q_len and kv_len the numbers of its tokens (they may be 0):
///
///   q, out, lse   as in attention.hpp, for the rank's queries; types are each rank's own
///   k, v          for the rank's keys; f32, bf16 or f16, the same type on all ranks
///   mask          the rows of the rank's queries, or one row for all; all columns of the whole
///   kv_lens, sinks, alibi_slopes   of the whole call, the same on all ranks
///
/// One row of a mask where no rank has more than one query is that query's own.
///
/// A block of K and V is not sent on when no later rank of the ring has a query that sees one of
/// its keys, and a rank does not compute with a block of which it sees nothing.
///
/// Not supported, Error(unsupported): normalizers other than softmax, whose results do not merge;
/// ragged batches and block masks (mask_mod can express both); caches in rings and pages, and i8.
class ATTN_API RingAttention {
 public:
  /// Checks shapes and options on all ranks, and that they agree. As in AttentionPlan, data is not
  /// read and may be null. The object keeps a duplicate of the communicator.
  RingAttention(MPI_Comm comm, const RingCut& cut, const AttentionTensors& tensors,
                const AttentionOptions& options = {}, const Execution& execution = {});
  RingAttention(RingAttention&&) noexcept;
  RingAttention& operator=(RingAttention&&) noexcept;
  ~RingAttention();

  /// Computes out and lse of the rank's queries. Shapes, types and presence of the tensors are
  /// those of the plan. Beside the outputs a rank needs memory for O in f32 and for two blocks of K
  /// and V.
  void run(const AttentionTensors& tensors);
  /// Computes the gradients of the rank's tensors, as attention_backward() does: tensors.out and
  /// tensors.lse are what run() wrote. dK and dV travel with their blocks in f32, and arrive at the
  /// rank that owns them. dalibi and dsinks are those of the whole call on all ranks; so is dmask
  /// where the mask has one row for all queries, and else it is that of the rank's rows. The same
  /// gradients are given on all ranks. A rank needs memory for dQ in f32 and for five blocks of dK
  /// and dV besides. Probabilities follow from tensors.lse and have its rounding, eps |lse|: hide
  /// keys with -inf, since a row of which all keys get -1e9 has no digits left.
  void run_backward(const AttentionTensors& tensors, const AttentionGradients& gradients);

  /// Of the last run() or run_backward(), on this rank.
  const RingStatistics& statistics() const;

 private:
  struct ATTN_HIDDEN Parts;
  ATTN_HIDDEN Parts& parts() const;
  std::unique_ptr<Parts> parts_;
};

/// Runs a function on each rank, such as one that reads files. If it throws on a rank, all of them
/// throw Error with the message of the first rank that has failed.
ATTN_API void run_collectively(MPI_Comm comm, const std::function<void()>& work);

/// One call: RingAttention, made and run.
ATTN_API void ring_attention(MPI_Comm comm, const RingCut& cut, const AttentionTensors& tensors,
                             const AttentionOptions& options = {}, const Execution& execution = {});

/// Attention of queries that all ranks have to keys that are cut over the ranks. q, out and lse are
/// those of the whole call on all ranks, and get the same bits on all ranks that run the same ISA;
/// k and v are the keys of the rank as `keys` says; they may be i8 with scales. The mask has all
/// rows and columns, and kv_lens is of the whole. Exchanges 4 v_head_dim + 8 bytes for each row of
/// O and each rank, so it is for few queries. Not supported: as in RingAttention, but i8 is.
ATTN_API void tree_attention(MPI_Comm comm, const SequenceCut& keys,
                             const AttentionTensors& tensors, const AttentionOptions& options = {},
                             const Execution& execution = {});

/// A KvCache whose keys lie on all ranks of a communicator. All sequences of the batch have the
/// same length. Only attention() communicates; the other functions change each rank's part in the
/// same way when they are called in the same way, and attention() finds it if they were not.
class ATTN_API ShardedKvCache {
 public:
  struct Settings {
    /// Of the part of each rank: its capacity is that of one rank. Not rolling.
    KvCache::Settings part{};
    /// A rank's turn is so many keys long. Long turns make few stretches of adjacent keys, which
    /// matters with windows, ALiBi and masks; short ones balance short sequences.
    std::int64_t keys_per_turn = 256;
  };
  /// Allocates the part of this rank. Throws Error(invalid_argument), which names the setting that
  /// is not valid.
  ShardedKvCache(MPI_Comm comm, const Settings& settings);
  ShardedKvCache(ShardedKvCache&&) noexcept;
  ShardedKvCache& operator=(ShardedKvCache&&) noexcept;
  ~ShardedKvCache();

  /// Keys of each sequence on all ranks together.
  std::int64_t length() const;
  /// Which keys each rank holds.
  const SequenceCut& cut() const;

  /// Appends keys that every rank has: k [batch, num_kv_heads, count, head_dim], v [..,
  /// v_head_dim]. Each rank keeps those that come in its turn. Turns go to the rank that holds the
  /// fewest keys, the first of several. Keys are stored as they are: rotate them before by their
  /// position in the whole sequence. Throws Error(exhausted) on all ranks, and changes nothing, if
  /// a rank's part has not enough room.
  void append(const TensorView& k, const TensorView& v);
  /// Appends keys that each rank has its own part of, as of a prompt that RingAttention has
  /// computed: `cut` divides the new keys, and k and v are this rank's of them.
  void append_part(const SequenceCut& cut, const TensorView& k, const TensorView& v);
  /// Removes the keys from this position on. Throws Error(invalid_argument) for a position after
  /// the end.
  void truncate(std::int64_t position);
  void clear();

  /// tree_attention() with this cache as the keys and values of the call.
  void attention(const AttentionTensors& tensors, const AttentionOptions& options = {},
                 const Execution& execution = {});

 private:
  struct ATTN_HIDDEN Memory;
  ATTN_HIDDEN Memory& memory() const;
  std::unique_ptr<Memory> memory_;
};

}  // namespace attn
