// A column of a backward call: one block of keys of a head against all rows that see it.
#pragma once

#include <optional>

#include "attention/prefetch.hpp"
#include "attention/query_tiles.hpp"
#include "backward/context.hpp"
#include "backward/key_column.hpp"
#include "backward/score_sums.hpp"
#include "backward/workspace.hpp"
#include "threads/wait.hpp"

namespace attn::detail {

/// Columns add to the same rows of dQ, and columns of several heads to the same elements of dmask,
/// in a fixed order: each waits at each block of rows for the one before. Counts are numbers of
/// blocks of rows; null means that nobody is before, or after.
struct HandOver {
  const std::atomic<std::int64_t>* column_before = nullptr;
  const std::atomic<std::int64_t>* head_before = nullptr;
  std::atomic<std::int64_t>* own = nullptr;
  /// Blocks that the head before needs to be ahead: 1, or 2 if rows of a query, which add to the
  /// same elements of dmask, may lie in two blocks.
  std::int64_t head_lead = 1;

  void wait(std::int64_t q_block) const {
    if (column_before != nullptr) wait_for(*column_before, q_block + 1);
    if (head_before != nullptr) wait_for(*head_before, q_block + head_lead);
  }
  void pass_on(std::int64_t q_block) const {
    if (own != nullptr) own->store(q_block + 1, std::memory_order_release);
  }
};

/// Heads whose rows and keys threads will need next.
struct NextHeads {
  std::optional<HeadIndex> rows;
  std::optional<HeadIndex> keys;
};

class ColumnPass {
 public:
  ColumnPass(const BackwardContext& context, const ScoreSums& sums, const ColumnScratch& scratch);

  /// Writes dK and dV of a block of keys, and adds to dQ of the rows that see them.
  void compute(const HeadQueries& head, std::int64_t column, const Columns& columns,
               const HeadSlot& slot, const HandOver& hand_over, const NextHeads& next);

 private:
  /// One block of rows against the column.
  struct Block {
    const QueryBlock& rows;
    const HeadSlot& slot;
    std::int64_t column;
    std::int64_t chunk;
    bool first_of_chunk;  // no column of the chunk has added to dQ of these rows before
  };
  void plan_prefetch(const NextHeads& next, std::int64_t column, const Columns& columns);
  void compute_block(const Block& block);
  void process_tile(const Block& block, QueryTile& tile);
  void clear_tile(const Block& block, const QueryTile& tile);
  void make_gradients(const Block& block, const QueryTile& tile);
  void pass_back(const Block& block, const QueryTile& tile);
  void add_non_finite_rows(const Block& block, const QueryTile& tile);
  void pair_rows(const QueryTile& tile);
  void add_to_dq(const Block& block, const QueryTile& tile);
  void add_non_finite_keys(const Block& block, const QueryTile& tile);
  void add_to_dk_and_dv(const Block& block);
  void write(const HeadQueries& head, KeyRange keys);

  float gradient_of(std::int64_t r, std::int64_t j) const;
  float* dq(const Block& block, const QueryTile& tile) const;
  float* of_block(float* block_rows, const QueryTile& tile) const;

  const BackwardContext& context_;
  const ScoreSums& sums_;
  ColumnScratch scratch_;
  QueryTiles tiles_;
  KeyColumn keys_;
  PrefetchList prefetch_;
  std::int64_t stride_;             // of P and dS
  float* gradients_ = nullptr;      // dP, then dS, of the tile that is processed, as floats
  bool notes_visible_ = false;      // of the tile: which pairs are visible is noted
  KeyRange tile_keys_[most_tiles];  // what each tile of the block sees of the column
};

}  // namespace attn::detail
