// What the rows of a KV head have to do whichever way their scores and values are multiplied: which
// keys they see, what happens to their scores, and how they end.
#pragma once

#include <optional>

#include "attention/kv_layout.hpp"
#include "attention/scores.hpp"
#include "attention/visibility.hpp"
#include "attention/workspace.hpp"

namespace attn::detail {

struct PreparedCall;

struct HeadIndex {
  std::int64_t batch;
  std::int64_t kv_head;
};

/// A KV head of the call, and what its batch entry sees.
struct HeadQueries {
  std::int64_t batch;
  std::int64_t kv_head;
  std::int64_t rows;  // queries times group size, position-major
  KeyVisibility sight;
};

/// The rows at work, numbered from 0.
struct QueryBlock {
  HeadQueries place;
  std::int64_t first;  // within the head
  std::int64_t count;
  KeyRange visible_to_any;
  KeyRange visible_to_all;
  std::int64_t first_block;  // of keys
  std::int64_t last_block;
};

/// Up to six of them against one block of keys. Key ranges are counted from the block's first key.
struct QueryTile {
  const QueryBlock* block_rows;
  std::int64_t block_begin;
  std::int64_t first_row;
  std::int64_t rows;
  KeyRange visible_range;
  bool full = false;  // every row sees the whole visible_range
  const float* maxima = nullptr;
  float* scores = nullptr;
  std::int64_t score_stride = 0;
  std::uint8_t* visible = nullptr;  // [tile_rows, kv_block]
  // Of each row:
  std::int64_t begin[kernels::tile_rows];
  std::int64_t end[kernels::tile_rows];
  const float* mask[kernels::tile_rows] = {};
  bool hides[kernels::tile_rows] = {};  // a mask hides keys inside the row's range

  KeyRange range(std::int64_t r) const { return {begin[r], end[r]}; }
  KeyRange keys(std::int64_t r) const { return {block_begin + begin[r], block_begin + end[r]}; }
  float* row(std::int64_t r) const { return scores + r * score_stride; }
  void update_hull();
};

class QueryTiles {
 public:
  QueryTiles(const PreparedCall& prepared, const Blocking& blocking,
             const AttentionTensors& tensors, const KvLayout& layout, const RowScores& row_scores,
             const ThreadScratch& scratch) noexcept;

  /// Rows first <= row < first + count, which see keys of `among` alone.
  QueryBlock rows_of(const HeadQueries& place, std::int64_t first, std::int64_t count,
                     KeyRange among) const;
  QueryRow query_row(const QueryBlock& rows, std::int64_t r) const;
  QueryRow query_row(const QueryTile& tile, std::int64_t r) const {
    return query_row(*tile.block_rows, tile.first_row + r);
  }
  Row query(const QueryBlock& rows, std::int64_t r) const;
  KeyRange block_keys(std::int64_t block) const;

  /// Sets the states of `count` rows to the identity.
  void clear(const RowStates& states, std::int64_t count) const;
  /// Rows first_row, ... against one block of keys. Its visible_range is empty if they see none of
  /// it.
  QueryTile tile_of(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
                    std::int64_t block);
  /// Scale to score_mod, and dense visibility.
  void transform(QueryTile& tile);

  // Values that are not finite must not be multiplied with the weights 0 of hidden keys. Where
  // there are such, what each row sees is noted before its scores become weights, and the values
  // are added one by one: the only place where a weight has to know whether its key was hidden or
  // merely weighs 0.
  void note_visible(const QueryTile& tile);
  /// The weights that are left in `tile`, in words of vnni_factor, times the values that `wanted`
  /// picks; out: of the tile's rows.
  template <class Wanted>
  void add_visible_values(const QueryTile& tile, float* out, Wanted wanted);

  /// Divides by the sum, which the sink joins, and writes O and lse.
  void finish(const QueryBlock& rows, std::int64_t first_row, std::int64_t count,
              const RowStates& states) const;
  /// Writes factor * out as a row of O; overwrites out.
  void write(const QueryRow& query, float factor, float* out) const;
  /// Of a query's head; -inf is none.
  float sink(const QueryRow& query) const;

 private:
  void look_at_masks(QueryTile& tile);
  float weight(const QueryTile& tile, std::int64_t r, std::int64_t j) const;
  std::uint8_t* visible(const QueryTile& tile, std::int64_t r) const {
    return tile.visible + r * blocking_.kv_block;
  }

  const Sizes& sizes_;
  const Blocking& blocking_;
  const kernels::Kernels& kernels_;
  const AttentionTensors& tensors_;
  const KvLayout& layout_;
  const RowScores& row_scores_;
  bool whole_rows_;
  ThreadScratch scratch_;
};

template <class Wanted>
void QueryTiles::add_visible_values(const QueryTile& tile, float* out, Wanted wanted) {
  const HeadQueries& place = tile.block_rows->place;
  for (std::int64_t j = tile.visible_range.begin; j < tile.visible_range.end; ++j) {
    const Row row = layout_.keys(place.batch, place.kv_head, tile.block_begin + j, 1).value(0);
    const float* value = as_floats(row, sizes_.v_head_dim, kernels_, scratch_.staging);
    for (std::int64_t n = 0; n < sizes_.v_head_dim; ++n) {
      if (!wanted(value[n])) continue;
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const bool seen = j >= tile.range(r).begin && j < tile.range(r).end && visible(tile, r)[j];
        if (seen) out[r * blocking_.value_width + n] += weight(tile, r, j) * value[n];
      }
    }
  }
}

}  // namespace attn::detail
