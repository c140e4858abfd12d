// The rows of a KV head in blocks and tiles: which keys each row sees, what happens to its scores,
// and how it ends. All passes share this.
#pragma once

#include "attention/block_mask.hpp"
#include "attention/call_context.hpp"
#include "attention/overflow.hpp"
#include "attention/query_tile.hpp"
#include "attention/softmax_state.hpp"
#include "attention/workspace.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {

/// Gives those of `keys` a score of -inf that are not in the range of row r of a tile.
void hide_outside(const QueryTile& tile, std::int64_t r, KeyRange keys) noexcept;

/// Rows of a tile where tiles are as few as possible, and as even.
constexpr std::int64_t rows_of_a_tile(std::int64_t rows) noexcept {
  return divide_up(rows, divide_up(rows, kernels::tile_rows));
}

class QueryTiles {
 public:
  QueryTiles(const CallContext& context, const Blocking& blocking,
             const ThreadScratch& scratch) noexcept
      : context_(context),
        blocking_(blocking),
        scratch_(scratch),
        overflowed_(context, scratch.staging) {}

  /// Rows first, ..., first + count - 1 of a head, which see only keys of `among`.
  QueryBlock block_of(const HeadQueries& head, std::int64_t first, std::int64_t count,
                      KeyRange among) const;
  QueryRow query_row(const QueryBlock& rows, std::int64_t r) const;
  QueryRow query_row(const QueryTile& tile, std::int64_t r) const {
    return query_row(*tile.block_rows, tile.first_row + r);
  }
  /// The elements of a query.
  Row query(const QueryBlock& rows, std::int64_t r) const;
  /// The keys of a block of keys.
  KeyRange block_keys(std::int64_t block) const;

  /// The same without blocks of keys at both ends that a block mask hides from all rows. If it
  /// hides all of them, no block is left: last_block < first_block.
  QueryBlock unhidden_block_of(const HeadQueries& head, std::int64_t first, std::int64_t count,
                               KeyRange among) const;
  /// Whether the block mask, if there is one, lets any of the rows see any of a block of keys.
  bool sees(const QueryBlock& rows, std::int64_t block) const;

  /// Rows first_row, ... of a block of rows against those of one block of keys that are in `among`.
  /// Its visible_range is empty if they see none of them.
  QueryTile tile_of(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                    std::int64_t block, KeyRange among = all_keys);
  /// Applies scale, softcap, ALiBi, masks and score_mod to the scores of a tile.
  void transform(QueryTile& tile, const SavedScores& saved = {});

  /// Divides by the sum, which the sink joins, and writes O and lse. `probabilities` are asked for
  /// again where sums overflowed or, if some values are tiny bf16, are small.
  void finish(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
              const SoftmaxStates& states, RowProbabilities& probabilities,
              bool tiny_values = false) const;
  /// Writes rows of O that are final: out [rows.count, value_width], which is overwritten.
  void write(const QueryBlock& rows, RowProbabilities& probabilities, float* out) const;
  /// The sink of a query's head; -inf if there is none.
  float sink(const QueryRow& query) const;

 private:
  /// The queries of `count` rows from `first` on, as a block mask counts them.
  BlockMask::Blocks::Queries queries_of(const HeadQueries& head, std::int64_t first,
                                        std::int64_t count) const noexcept;
  void read_dense_masks(QueryTile& tile);
  void write(const QueryBlock& rows, std::int64_t r, double factor, float* out) const;
  void repair_and_write(const FinalRow& row, RowProbabilities& probabilities, float* out) const;

  const CallContext& context_;
  const Blocking& blocking_;
  ThreadScratch scratch_;
  OverflowedSums overflowed_;
};

}  // namespace attn::detail
