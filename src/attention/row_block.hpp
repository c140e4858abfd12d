// One work item of the tiled pass: a block of rows of one KV head against all keys they see.
#pragma once

#include <optional>

#include "attention/key_range.hpp"
#include "attention/pack.hpp"
#include "attention/prefill.hpp"
#include "attention/read_ahead.hpp"
#include "attention/row_scores.hpp"
#include "onednn/matmul.hpp"

namespace attn {

struct HeadIndex {
  std::int64_t batch;
  std::int64_t kv_head;
};

/// A KV head of the call, and what its batch entry sees.
struct HeadPlace {
  std::int64_t batch;
  std::int64_t kv_head;
  Sight sight;
};

class RowBlockPass {
 public:
  RowBlockPass(const PreparedCall& prepared, const Tensors& tensors, const RowScores& row_scores, const Packer& packer,
               const ThreadScratch& scratch);

  /// Writes O and lse of block `q_block` of the head's rows.
  /// next_head: whose K and V to bring nearer meanwhile, if any.
  void compute(const HeadPlace& place, std::int64_t q_block, const PackedHead& packed, const std::optional<HeadIndex>& next_head = {});

 private:
  /// The rows at work, numbered from 0 within the block.
  struct Rows {
    const HeadPlace& place;
    std::int64_t first;  // within the head
    std::int64_t count;
    KeyRange seen_by_any;
    KeyRange seen_by_all;
    std::int64_t first_block;  // of keys
    std::int64_t last_block;
    std::optional<HeadIndex> next_head;
  };
  /// Up to six of them against one block of keys. Key ranges are counted from the block's first key.
  struct Tile {
    const Rows* block_rows;
    std::int64_t block_begin;
    std::int64_t first_row;
    std::int64_t rows;
    KeyRange hull;
    bool alike = false;  // every row sees the whole hull
    const float* maxima = nullptr;
    float* scores = nullptr;
    std::int64_t score_stride = 0;
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

  QueryRow query_row(const Rows& rows, std::int64_t r) const;
  QueryRow query_row(const Tile& tile, std::int64_t r) const { return query_row(*tile.block_rows, tile.first_row + r); }
  void start(const Rows& rows);
  void take_tile(const Rows& rows, std::int64_t first_row, std::int64_t block, const PackedHead& packed, bool scores_made);
  Tile tile_of(const Rows& rows, std::int64_t first_row, KeyRange keys) const;
  void look_at_masks(Tile& tile);
  void make_scores(Tile& tile, const kernels::Panels& keys);
  void transform(Tile& tile);
  void add_values(const Tile& tile, const PackedHead& packed, std::int64_t block);
  void note_visible(const Tile& tile);
  void add_non_finite_values(const Tile& tile);
  float weight(const Tile& tile, std::int64_t r, std::int64_t j) const;
  void finish(const Rows& rows, std::int64_t first_row, std::int64_t count);
  void look_ahead(const Rows& rows, std::int64_t first_row, std::int64_t block);
  KeyRange block_keys(std::int64_t block) const;
  bool whole_block(const Rows& rows, std::int64_t block) const;

  std::uint8_t* visible(std::int64_t r) const { return scratch_.visible + r * prepared_.blocking.kv_block; }

  const PreparedCall& prepared_;
  const Sizes& sizes_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  const Tensors& tensors_;
  const RowScores& row_scores_;
  const Packer& packer_;
  ThreadScratch scratch_;
  const float* queries_ = nullptr;
  std::int64_t query_stride_ = 0;
  std::optional<onednn::MatmulCall> score_matmul_;
  ReadAhead ahead_;
};

}  // namespace attn
