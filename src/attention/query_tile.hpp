// Blocks and tiles of query rows, as plain data.
#pragma once

#include <cstdint>

#include "attention/visibility.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

struct HeadIndex {
  std::int64_t batch;
  std::int64_t kv_head;
};

/// The rows of one KV head.
struct HeadQueries {
  std::int64_t batch;
  std::int64_t kv_head;
  std::int64_t rows;  // q_len * group_size, position-major
  KeyVisibility visibility;
};

/// Neighboring rows of a head, numbered from 0.
struct QueryBlock {
  HeadQueries head;
  std::int64_t first;  // within the head
  std::int64_t count;
  KeyRange visible_to_any;
  KeyRange visible_to_all;
  std::int64_t first_block;  // of keys
  std::int64_t last_block;
  std::int64_t kv_block = 1;  // keys of a block
};

/// Up to six rows of a block against one block of keys. Key ranges count from the first key of that
/// block.
struct QueryTile {
  const QueryBlock* block_rows;
  std::int64_t block_begin;  // the first key of the block
  std::int64_t first_row;
  std::int64_t rows;
  KeyRange visible_range;         // from the first to the last key that any row sees
  bool full = false;              // every row sees all of visible_range
  const float* maxima = nullptr;  // of the scores, where the micro-kernel has taken them
  float* scores = nullptr;
  std::int64_t score_stride = 0;
  std::uint8_t* visible = nullptr;  // [tile_rows, kv_block]
  std::int64_t visible_stride = 0;
  // For each row:
  std::int64_t begin[kernels::tile_rows];
  std::int64_t end[kernels::tile_rows];
  const float* mask[kernels::tile_rows] = {};  // additive
  bool hides[kernels::tile_rows] = {};         // a mask hides keys inside the row's range

  KeyRange range(std::int64_t r) const { return {begin[r], end[r]}; }
  /// The same keys, counted from the first key of the sequence.
  KeyRange keys(std::int64_t r) const { return {block_begin + begin[r], block_begin + end[r]}; }
  float* row(std::int64_t r) const { return scores + r * score_stride; }
  std::uint8_t* visible_row(std::int64_t r) const { return visible + r * visible_stride; }
};

}  // namespace attn::detail
