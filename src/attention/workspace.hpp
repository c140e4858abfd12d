// Where things lie in a call's scratch memory. The same functions measure it and lay it out.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "attention/plan.hpp"
#include "attention/schedule.hpp"
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

/// Packed K and V of one KV head, in words. K: per block of keys, panels of keys, each
/// [key_depth][panel_width] (for oneDNN one matrix [head_dim][kv_block]). V: per block, panels of
/// dims, each [value_depth][value_panel_width].
struct PackedHead {
  float* keys;
  float* values;
  // Per block of keys:
  const float** values_in_place;  // where V lies if it can stay there, else null
  std::uint8_t* finite;           // whether all its values are
};

/// Online softmax of some rows, not divided by its sums yet: row_max and row_sum [rows], out [rows,
/// value_width].
struct RowStates {
  float* out;
  float* row_max;
  float* row_sum;
};

struct QueryTile;

struct ThreadScratch {
  float* queries;         // [q_block, key_depth]
  RowStates states;       // of q_block rows
  RowStates saved;        // of tile_rows rows
  float* scores;          // [tile_rows, score_stride], or [tile_rows, row_stride] with whole rows
  float* maxima;          // [tile_rows, vector_width]
  std::uint8_t* visible;  // [tile_rows, kv_block], with whole rows for each block of keys
  float* mask_rows;       // [tile_rows, kv_block]
  float* staging;         // [panel_width, max(head_dim, value_width)]
  float* score_tile;      // [q_block, kv_block] where oneDNN computes scores, else null
  // With whole rows:
  float* row_scratch;  // [2, row_stride]
  QueryTile* tiles;    // of each block of keys
};

/// What decides the size of the scratch.
struct ScratchShape {
  Sizes sizes;
  bool packs = true;     // some heads, by `blocking`
  bool in_place = true;  // some heads, by `short_blocking`
  Blocking blocking;
  Blocking short_blocking;
  std::int64_t panel_width = 0;
  std::int64_t slots = 0;
  std::int64_t partial_rows = 0;  // of split heads
  int num_threads = 1;
  bool score_tiles = false;
  bool needs_full_rows = false;  // the scores of all keys of a tile's rows exist at the same time
};

std::int64_t score_stride(const Blocking& blocking) noexcept;
/// Of rows with the scores of all keys, and one more.
std::int64_t row_stride(const Blocking& blocking) noexcept;

/// All of a call's scratch.
class Scratch {
 public:
  /// Bytes, with room to align the base.
  static std::size_t size(const ScratchShape& shape) noexcept;

  /// Lays memory of that size out and sets its ticket counter to 0.
  Scratch(const ScratchShape& shape, void* memory) noexcept;

  std::atomic<std::int64_t>& next_ticket() const noexcept { return *shared_.next_ticket; }
  std::span<SequenceWork> entries() const noexcept {
    return {shared_.entries, static_cast<std::size_t>(shape_.sizes.batch)};
  }
  HeadWork* heads() const noexcept { return shared_.heads; }
  HeadProgress* progress() const noexcept { return shared_.progress; }
  PackedHead packed(std::int64_t slot) const noexcept;
  ThreadScratch thread(int thread) const noexcept;
  /// Partial states from a row of them on.
  RowStates partial(std::int64_t row) const noexcept;

 private:
  /// What all threads share.
  struct Shared {
    std::atomic<std::int64_t>* next_ticket;
    SequenceWork* entries;
    HeadWork* heads;
    HeadProgress* progress;
    RowStates partials;
  };
  static Shared carve_shared(Arena& arena, const ScratchShape& shape);

  ScratchShape shape_;
  Shared shared_;
  std::byte* slots_begin_;
  std::byte* threads_begin_;
};

}  // namespace attn::detail
