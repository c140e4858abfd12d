// The layout of the scratch memory of a backward call. The same functions measure it and lay it
// out.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "attention/scores.hpp"
#include "attention/workspace.hpp"
#include "backward/entmax_gradient.hpp"
#include "backward/plan.hpp"

namespace attn::detail {

/// A head in flight: its rows as operands, what its scores are compared with, and its dQ.
///
/// Operands are floats, or packed pairs of bf16. Values that are not finite are 0 where they are
/// multiplied with probabilities of 0: in what is summed over rows.
struct HeadSlot {
  float* queries;     // [padded_rows, query_stride], pairs along dims
  float* query_rows;  // the same memory for floats; else pairs of rows [padded_rows / 2, key_width]
  float* douts;       // [padded_rows, dout_stride]
  float* dout_rows;   // as query_rows, of value_width
  // For each row:
  float* base;   // softmax: scale * base + shift is lse in the log2 domain; base is 0 for most rows
  float* shift;  // sigmoid: the bias
  float* mean;   // softmax: what is subtracted from dP, delta - dlse
  EntmaxRowGradient* thresholds;  // entmax, else null
  std::uint8_t* query_finite;
  std::uint8_t* dout_finite;
  float* dq;  // [copies, padded_rows, key_width]
  // Sums over the keys of a chunk [copies, padded_rows], or null:
  double* distance_sums;  // of |p - j| dS
  double* score_sums;     // of dS
};

/// The scores and dP of a block of rows against all of their keys, from which the thresholds of
/// entmax follow. Null with other normalizers.
struct FullRows {
  float* scores;     // [q_block, row_stride]
  float* gradients;  // the same
  float* search;     // [2, row_stride]
};

/// The scratch memory of one thread.
struct ColumnScratch {
  ThreadScratch tiles;       // visible, mask_rows and staging
  float* keys_transposed;    // panels of keys [transposed_keys][panel_width], or a matrix
  float* values_transposed;  // the same of values
  float* score_block;        // [q_block, kv_block] of a block that oneDNN multiplies, or null
  float* gradient_block;     // the same of dP
  float* key_rows;           // [kv_block / vnni_factor, key_width], values that are not finite as 0
  float* dk;                 // [kv_block, key_width]
  float* dv;                 // [kv_block, value_width]
  // P and dS of a block of rows, [q_block, score_stride] floats or [q_block / 2, score_stride]
  // pairs of rows:
  float* probabilities;
  float* gradients;
  // With pairs, those of a tile as floats [tile_rows, score_stride]; else null:
  float* tile_probabilities;
  float* tile_gradients;
  SavedScores saved;    // [tile_rows, score_stride] where they are needed
  double* column_sums;  // [group_size, kv_block] of dS, or null
  FullRows full_rows;
};

/// All scratch memory of a run.
class BackwardScratch {
 public:
  /// Bytes, with room to align the base; the largest number if they overflow.
  static std::size_t size(const BackwardPlan& plan) noexcept;

  /// Lays memory of that size out. The plan must outlive it.
  BackwardScratch(const BackwardPlan& plan, void* memory) noexcept;

  HeadSlot slot(std::int64_t index) const noexcept;
  ColumnScratch thread(int thread) const noexcept;

  /// Numbers of finished items of a head.
  struct Progress {
    std::atomic<std::int64_t> prepared;
    std::atomic<std::int64_t> computed;
    std::atomic<std::int64_t> finished;
  };
  /// What all threads share. All counts are 0 at first.
  struct Shared {
    std::atomic<std::int64_t>* next_ticket;
    BackwardHead* heads;  // [batch * num_kv_heads + 1]
    Progress* progress;   // [batch * num_kv_heads]
    /// Blocks of rows that a column is done with, [batch * num_kv_heads, columns.count].
    std::atomic<std::int64_t>* columns;
    // Sums of rows and columns of dS until the end, or null:
    double* distance_sums;  // [total_rows]
    double* score_sums;     // [total_rows]
    double* sink_terms;     // [total_rows]
    double* column_sums;    // [batch * num_q_heads, kv_len]
    MaskRow* scanned_rows;  // of the dense mask
  };
  const Shared& shared() const noexcept { return shared_; }

 private:
  static Shared carve_shared(Arena& arena, const BackwardPlan& plan);

  const BackwardPlan& plan_;
  Shared shared_;
  std::byte* slots_begin_;
  std::byte* threads_begin_;
};

}  // namespace attn::detail
