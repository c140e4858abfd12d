// The layout of the scratch memory of a call. The same functions measure it and lay it out.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "attention/plan.hpp"
#include "attention/query_tile.hpp"
#include "attention/schedule.hpp"
#include "attention/scores.hpp"
#include "attention/softmax_state.hpp"
#include "tensor/memory.hpp"

namespace attn::detail {

/// Hands out consecutive, 64-byte aligned pieces of memory; from a null base it only counts.
class Arena {
 public:
  explicit Arena(void* base) noexcept : base_(static_cast<std::byte*>(base)) {}

  template <class T>
  T* take(std::int64_t count) noexcept {
    std::byte* const piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const noexcept { return used_; }

  static constexpr std::size_t alignment = memory_alignment;

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// The bytes that carve(arena, plan) takes.
template <class Carve, class Plan>
std::size_t measure(Carve carve, const Plan& plan) {
  Arena arena(nullptr);
  carve(arena, plan);
  return arena.used();
}

/// The first multiple of Arena::alignment from there on.
inline std::byte* align_up(void* memory) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return static_cast<std::byte*>(memory) +
         (Arena::alignment - address % Arena::alignment) % Arena::alignment;
}

/// Packed K and V of one KV head, in floats or pairs of bf16. K: per block of keys, panels of keys,
/// each [key_depth][panel_width] (for oneDNN's matmul one matrix [head_dim][kv_block]). V: per
/// block, panels of dims, each [value_depth][value_panel_width].
struct PackedHead {
  float* keys;
  float* values;
  // For each key, where the plan is scaled: the scales of K and V of i8; of V, 0 in the place of
  // what is not finite.
  float* key_scales;
  float* value_scales;
  // For each block of keys:
  const float** values_in_place;  // V in the user's tensor if it is read there, else null
  // For each piece of each block: whether all values are finite and, of bf16, none tiny.
  std::uint8_t* finite;
  std::int64_t pieces;

  bool is_finite(std::int64_t block) const noexcept {
    return std::find(finite + block * pieces, finite + (block + 1) * pieces, 0) ==
           finite + (block + 1) * pieces;
  }
};

/// The scratch memory of one thread.
struct ThreadScratch {
  float* queries;         // [q_block, key_depth]
  SoftmaxStates states;   // of q_block rows
  SoftmaxStates saved;    // of tile_rows rows
  float* scores;          // [tile_rows, score_stride]; with full rows [tile_rows, row_stride];
                          // blockwise [rows, score_stride]
  float* maxima;          // [tile_rows, vector_width]
  std::uint8_t* visible;  // [tile_rows, kv_block]; with full rows one for each block of keys
  float* mask_rows;       // [tile_rows, kv_block]
  float* row_scales;      // [kv_block]
  float* paired_rows;     // [tile_rows, kv_block]: probabilities as pairs
  float* staging;         // [panel_width, max(head_dim, value_width)]
  float* score_tile;      // [onednn_rows, kv_block], of tiles that oneDNN multiplies
  // Of heads that are read blockwise:
  float* query_panels;       // Q^T in panels, [key_depth, rows]
  float* transposed_scores;  // [transposed_keys, rows]
  PackedHead block_values;   // of one block of keys; no keys
  // With full rows:
  float* row_scratch;  // [2, row_stride]
  QueryTile* tiles;    // one for each block of keys
};

/// Floats from one row of a tile's scores to the next.
std::int64_t score_stride(const Blocking& blocking) noexcept;
/// The same for rows with the scores of all keys, and one more for a sink.
std::int64_t row_stride(const Blocking& blocking) noexcept;

/// All scratch memory of a run.
class Scratch {
 public:
  /// Bytes, with room to align the base; the largest number if they overflow.
  static std::size_t size(const CallPlan& plan) noexcept;

  /// Lays memory of that size out and sets its ticket counter to 0. The plan must outlive it.
  Scratch(const CallPlan& plan, void* memory) noexcept;

  std::atomic<std::int64_t>& next_ticket() const noexcept { return *shared_.next_ticket; }
  std::span<SequenceWork> sequences() const noexcept {
    return {shared_.sequences, static_cast<std::size_t>(plan_.sizes.batch)};
  }
  HeadWork* heads() const noexcept { return shared_.heads; }
  HeadProgress* progress() const noexcept { return shared_.progress; }
  MaskRow* scanned_rows() const noexcept { return shared_.scanned_rows; }
  PackedHead packed(std::int64_t slot) const noexcept;
  ThreadScratch thread(int thread) const noexcept;
  /// Partial states of split heads, from a row of them on.
  SoftmaxStates partial(std::int64_t row) const noexcept;

 private:
  /// What all threads share.
  struct Shared {
    std::atomic<std::int64_t>* next_ticket;
    SequenceWork* sequences;
    HeadWork* heads;
    HeadProgress* progress;
    SoftmaxStates partials;
    MaskRow* scanned_rows;
  };
  static Shared carve_shared(Arena& arena, const CallPlan& plan);

  const CallPlan& plan_;
  Shared shared_;
  std::byte* slots_begin_;
  std::byte* threads_begin_;
};

}  // namespace attn::detail
