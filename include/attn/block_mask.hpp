// Which blocks of queries and keys need to be computed, found once and used by many calls.
//
// A BlockMask divides the q_len x kv_len pairs of a query and a key into blocks. A block is empty
// (no pair is visible), full (all are) or partial. Three documents of 4, 3 and 5 tokens, in blocks
// of 4 x 4 (1 = visible; . is an empty block):
//
//   1 1 1 1 | . . . . | . . . .      full     empty    empty
//   ... (4 equal rows)
//   . . . . | 1 1 1 0 | 0 0 0 0      empty    partial  partial
//   . . . . | 1 1 1 0 | 0 0 0 0
//   . . . . | 1 1 1 0 | 0 0 0 0
//   . . . . | 0 0 0 1 | 1 1 1 1
//   . . . . | 0 0 0 1 | 1 1 1 1      empty    partial  full
//   ... (4 equal rows)
//
// A call with AttentionOptions::block_mask hides what it hides besides: a key is visible if the
// block mask and all other masks say so. Nothing is read for an empty block. Beyond that, a block
// mask is one of two kinds:
//
//   exact      of documents and ranges: it knows each pair. The other masks are asked in all blocks
//              that are not empty.
//   a summary  of a mask_mod, of a dense mask, or given as lists of blocks. Partial blocks are
//              decided by the call's own mask_mod or mask, which need to be given there. In full
//              blocks they are not asked: the block mask is taken at its word.
//
// A summary of a mask_mod stands for mask_mod alone, and one of a dense mask for the mask alone;
// lists of blocks stand for both. An additive mask is added in full blocks too, and its -inf hides
// everywhere. Causal masks, windows and kv_lens always apply.
//
// Summaries are the BlockMask of FlexAttention (Dong et al. 2024, arXiv:2412.05496).
#pragma once

#include <attn/execution.hpp>
#include <attn/export.hpp>
#include <attn/mask.hpp>
#include <attn/tensor.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace attn {

enum class BlockKind { empty, partial, full };

/// Queries and keys of a block; each 1 or more. Blocks at the end may be smaller. The default
/// follows short documents closely: one of 512 tokens touches at most 9 x 9 blocks for its 8 x 8.
/// And it is large enough that a decision costs nothing beside the multiplications of 64 x 64
/// scores.
struct BlockSize {
  std::int64_t q = 64;
  std::int64_t kv = 64;
};

/// The sizes of a block mask. batch and num_q_heads are 1 where all entries, or all heads, are
/// alike.
struct BlockMaskSizes {
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t batch = 1;
  std::int64_t num_q_heads = 1;
  BlockSize block{};
};

/// What a mask_mod is told of a query besides its index: the query heads that share a KV head, and
/// where queries stand (for bottom-right, kv_len - q_len). A mask_mod that reads them needs those
/// of the call here.
struct MaskModContext {
  std::int64_t group_size = 1;
  QueryPosition q_position{};
};

/// The pairs of queries q_begin, ..., q_end - 1 and keys key_begin, ..., key_end - 1.
struct VisibleRange {
  std::int64_t q_begin = 0;
  std::int64_t q_end = 0;
  std::int64_t key_begin = 0;
  std::int64_t key_end = 0;
};

/// Blocks of one kind, as compressed rows (CSR): row n has the blocks columns[offsets[n]], ...,
/// columns[offsets[n + 1] - 1] of keys, in any order. A row is a block of queries of a head: rows
/// count blocks of queries first, then heads, then entries of the batch. Both absent: no block.
struct BlockLists {
  TensorView offsets{};  // i32 or i64 [batch * num_q_heads * q_blocks + 1]
  TensorView columns{};  // i32 or i64 [offsets[last]]
};

/// It is immutable, and copies share their memory: copying is cheap, and several threads may use
/// copies, or one. A move copies.
class ATTN_API BlockMask {
 public:
  // Each of the following functions throws Error(invalid_argument) that names what does not fit:
  // sizes below 0 or too large, blocks of less than 1, wrong types and shapes, indices that are out
  // of range. None keeps what it is given. Memory of a block mask grows with the number of runs of
  // alike blocks, and of an exact one also with its documents or ranges.

  /// The summary of a mask_mod, which is called for all pairs once, from several threads at a time,
  /// for up to 8192 keys of a query in a call. What it throws reaches the caller.
  static BlockMask from_mask_mod(const MaskMod& mask_mod, const BlockMaskSizes& sizes,
                                 const MaskModContext& context = {},
                                 const Execution& execution = {});

  /// The summary of a dense mask in any form that AttentionTensors::mask takes for a call of these
  /// sizes with MaskKeys::first; calls with MaskKeys::last refuse it. Where the mask is alike for
  /// all entries or heads, so is the block mask.
  static BlockMask from_mask(const TensorView& mask, const BlockMaskSizes& sizes,
                             const Execution& execution = {});

  /// Exact: a query sees the keys of its own document. `q_documents` [q_len] or [batch, q_len] and
  /// `kv_documents` [kv_len] or [batch, kv_len] are i32 or i64: any numbers, in any order. The time
  /// is linear in the lengths where documents lie one after another.
  static BlockMask from_documents(const TensorView& q_documents, const TensorView& kv_documents,
                                  const BlockSize& block = {});

  /// Exact: a query sees the keys of all ranges that it belongs to. Ranges may overlap and be
  /// empty. batch and num_q_heads of the sizes are 1.
  static BlockMask from_ranges(std::span<const VisibleRange> ranges, const BlockMaskSizes& sizes);

  /// A summary as lists of its full and its partial blocks; the others are empty. No block is
  /// listed twice.
  static BlockMask from_lists(const BlockLists& full, const BlockLists& partial,
                              const BlockMaskSizes& sizes);

  BlockMask(const BlockMask&) noexcept = default;
  BlockMask& operator=(const BlockMask&) noexcept = default;

  const BlockMaskSizes& sizes() const noexcept;
  std::int64_t q_blocks() const noexcept;
  std::int64_t kv_blocks() const noexcept;

  /// The kind of a block. An index of the batch or of heads may be any number of 0 or more where
  /// all are alike. Throws Error(invalid_argument) for an index that is out of range.
  BlockKind kind(std::int64_t batch, std::int64_t q_head, std::int64_t q_block,
                 std::int64_t kv_block) const;

  /// The number of blocks of each kind, in all entries and heads that are not alike.
  struct Counts {
    std::int64_t empty = 0;
    std::int64_t partial = 0;
    std::int64_t full = 0;
  };
  const Counts& counts() const noexcept;
  /// The visible pairs as a share of all pairs of a query and a key, by this mask alone; 0 where
  /// there are no pairs. Empty if it is not known, for lists with partial blocks.
  std::optional<double> density() const noexcept;

  /// Whether it knows each pair.
  bool exact() const noexcept;
  /// Whether it stands for the mask_mod, or for the boolean mask, of a call: it is not asked in
  /// full blocks.
  bool stands_for_mask_mod() const noexcept;
  bool stands_for_mask() const noexcept;
  /// Fills visible[0..count), as a MaskMod does: false for the keys that the block mask hides. Of a
  /// summary, these are the keys of empty blocks. Throws Error(invalid_argument) for indices that
  /// are out of range.
  void visible_keys(const KeyRun& run, bool* visible) const;

  struct ATTN_HIDDEN Blocks;  // for the library alone
  ATTN_HIDDEN explicit BlockMask(std::shared_ptr<const Blocks> blocks) noexcept;
  ATTN_HIDDEN const Blocks& blocks() const noexcept { return *blocks_; }

 private:
  std::shared_ptr<const Blocks> blocks_;
};

}  // namespace attn
