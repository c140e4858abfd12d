// The rows of one KV head against packed keys and values, with normalisers that are no online
// softmax: a row's weights depend on all of its scores at once.
#pragma once

#include "attention/pack.hpp"
#include "attention/row_tiles.hpp"
#include "attention/run.hpp"

namespace attn {

class NormalisedRowsPass {
 public:
  NormalisedRowsPass(const PreparedCall& prepared, const Tensors& tensors,
                     const BatchLayout& layout, const RowScores& row_scores, const Packer& packer,
                     const ThreadScratch& scratch);

  /// Writes O of block `q_block` of the head's rows.
  void compute(const HeadPlace& place, std::int64_t q_block, const PackedHead& packed);

 private:
  void take_rows(const Rows& rows, const PackedHead& packed);
  void read_queries(const Rows& rows);
  void make_scores(const Rows& rows, std::int64_t block, const PackedHead& packed);
  void multiply(Tile& tile, const PackedHead& packed, std::int64_t block);
  void normalise(const Rows& rows, std::int64_t r);
  void add_values(const Rows& rows, std::int64_t block, const PackedHead& packed);
  bool weighs(const Rows& rows, KeyRange keys) const;
  KeyRange seen_by(const Rows& rows, std::int64_t r) const;
  float* scores(std::int64_t r) const { return scratch_.scores + r * row_stride_; }

  const Blocking& blocking_;
  const Sizes& sizes_;
  const Normaliser& normaliser_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  const BatchLayout& layout_;
  const Packer& packer_;
  ThreadScratch scratch_;
  RowTiles tiles_;
  std::int64_t row_stride_;
};

}  // namespace attn
