// The rows of one KV head against packed keys and values, with normalizers that are no online
// softmax: a row's weights depend on all of its scores at once.
#pragma once

#include "attention/pack.hpp"
#include "attention/query_tiles.hpp"
#include "attention/run.hpp"

namespace attn::detail {

class FullRowPass {
 public:
  FullRowPass(const PreparedCall& prepared, const AttentionTensors& tensors, const KvLayout& layout,
              const RowScores& row_scores, const Packer& packer, const ThreadScratch& scratch);

  /// Writes O of block `q_block` of the head's rows.
  void compute(const HeadQueries& place, std::int64_t q_block, const PackedHead& packed);

 private:
  void take_rows(const QueryBlock& rows, const PackedHead& packed);
  void read_queries(const QueryBlock& rows);
  void make_scores(const QueryBlock& rows, std::int64_t block, const PackedHead& packed);
  void multiply(QueryTile& tile, const PackedHead& packed, std::int64_t block);
  void normalize(const QueryBlock& rows, std::int64_t r);
  void add_values(const QueryBlock& rows, std::int64_t block, const PackedHead& packed);
  bool weighs(const QueryBlock& rows, KeyRange keys) const;
  KeyRange seen_by(const QueryBlock& rows, std::int64_t r) const;
  float* scores(std::int64_t r) const { return scratch_.scores + r * row_stride_; }

  const Blocking& blocking_;
  const Sizes& sizes_;
  const Normalizer& normalizer_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  const KvLayout& layout_;
  const Packer& packer_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  std::int64_t row_stride_;
};

}  // namespace attn::detail
