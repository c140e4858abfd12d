// What decides how a backward call is computed: blocks, chunks, threads, slots and scratch sizes.
// Integers in, integers out; no tensors, so it is tested without any.
//
// Rows of a KV head and keys are cut into blocks. A column is one block of keys of one head: one
// thread computes it against all rows that see it, from the first to the last, and keeps dK and dV
// of these keys to itself. dQ of a row is a sum over columns. The columns of a head are grouped
// into chunks of neighbors, at most most_chunks; each chunk has a copy of dQ, to which its columns
// add in their order, one waiting for the other at each block of rows. The copies are added up in
// the end. Chunks and the order follow from the lengths of one sequence alone, and so do the bits.
#pragma once

#include <cstdint>

#include "attention/plan.hpp"

namespace attn::detail {

inline constexpr std::int64_t most_chunks = 8;
inline constexpr std::int64_t most_column_keys = 128;
/// Tiles of a block of rows.
inline constexpr std::int64_t most_tiles = 16;

/// The columns of a sequence, grouped into chunks.
struct Columns {
  std::int64_t count = 0;
  std::int64_t per_chunk = 1;  // the last chunk may have fewer

  std::int64_t chunk_of(std::int64_t column) const noexcept { return column / per_chunk; }
  bool first_of_chunk(std::int64_t column) const noexcept { return column % per_chunk == 0; }
  /// The columns in the order in which threads take them: those of two chunks in turn, so that two
  /// threads need not wait for each other.
  std::int64_t in_turn(std::int64_t index) const noexcept;
};
/// Of a sequence with `kv_len` keys in `kv_rows` rows of K. What is beyond its keys belongs to
/// columns that no row sees.
Columns columns_of(std::int64_t kv_len, std::int64_t kv_rows, std::int64_t kv_block) noexcept;

/// Which sums of dS make dmask. Dims that the mask does not broadcast are kept.
enum class MaskSums {
  none,      // dmask is not wanted
  elements,  // q_len and kv_len are kept
  columns,   // the mask is the same for all queries
  rows,      // the mask is the same for all keys
};

/// What is wanted besides dQ, dK and dV, and what that needs.
struct BackwardExtras {
  MaskSums mask_sums = MaskSums::none;
  bool dalibi = false;
  bool dsinks = false;
  bool softcap = false;
  bool score_mod = false;
  bool full_rows = false;         // thresholds of rows are found with all scores of a row
  bool heads_share_mask = false;  // several heads add to the same elements of dmask
};

struct BackwardPlanInput {
  Sizes sizes;                    // of a ragged batch, the longest lengths
  std::int64_t query_tokens = 0;  // of the whole batch
  bool multiplies_bf16 = false;
  ScoreMatmul score_matmul = ScoreMatmul::built_in;
  OnednnSupport onednn{};
  bool ragged = false;
  BackwardExtras extras;
  std::int64_t scanned_rows = 0;  // of the dense mask, if there is one
  int max_threads = 1;
  KernelWidths widths;
};

/// The blocks are in `call.packed`, as for the forward, so that both share the rows' tiles
/// (query_tiles.hpp).
struct BackwardPlan {
  CallPlan call;
  Columns columns{};                       // of the longest sequence
  std::int64_t copies = 0;                 // of dQ, for each head in flight
  std::int64_t key_width = 0;              // head_dim, rounded up to whole vectors
  std::int64_t dout_depth = 0;             // v_head_dim, in floats or pairs
  std::int64_t padded_rows = 0;            // of a head, rounded up to whole blocks
  std::int64_t slots = 0;                  // heads in flight
  bool whole_heads = false;                // a thread computes all of a head, in a slot of its own
  kernels::PanelLayout keys_transposed{};  // of K as the operand of Q K^T
  kernels::PanelLayout values_transposed{};  // of V as the operand of dout V^T
  std::int64_t transposed_keys = 0;          // rows of keys_transposed
  std::int64_t transposed_values = 0;        // rows of values_transposed
  kernels::PanelLayout key_rows{};   // of K as the operand of dS K, and of Q as that of dS^T Q
  kernels::PanelLayout dout_rows{};  // of dout as the operand of P^T dout
  std::int64_t query_stride = 0;     // from a row of Q to the next, in floats or pairs
  std::int64_t dout_stride = 0;
  std::int64_t total_rows = 0;  // of all heads
  BackwardExtras extras;
};
BackwardPlan make_backward_plan(const BackwardPlanInput& input);

/// Work items of a head: blocks of rows are prepared, columns computed, blocks of dQ finished.
enum class BackwardStep { prepare, column, finish };
struct BackwardItem {
  BackwardStep step;
  std::int64_t head;
  std::int64_t index;
  friend bool operator==(const BackwardItem&, const BackwardItem&) = default;
};
struct BackwardHead {
  std::int64_t q_blocks = 0;
  Columns columns{};
  std::int64_t first_row = 0;     // among the rows of all heads
  std::int64_t first_ticket = 0;  // of its stage
};

/// Heads are computed one after another, in stages: stage n has the columns of head n, prepares the
/// rows of head n + 1 and finishes those of head n - 1. Threads take items in the order of their
/// tickets, so an item only waits for items that some thread has taken before.
class BackwardSchedule {
 public:
  /// `heads` has everything but first_ticket, which it gets here. It needs one more element, for
  /// the last stage.
  BackwardSchedule(BackwardHead* heads, std::int64_t count) noexcept;

  std::int64_t size() const noexcept { return size_; }
  std::int64_t num_heads() const noexcept { return count_; }
  BackwardItem item(std::int64_t ticket) const noexcept;
  const BackwardHead& head(std::int64_t index) const noexcept { return heads_[index]; }

 private:
  BackwardHead* heads_;
  std::int64_t count_;
  std::int64_t size_ = 0;
};

}  // namespace attn::detail
