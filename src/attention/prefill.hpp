// One work item of the tiled pass over packed keys and values: a block of rows of one KV head
// against all keys they see.
#pragma once

#include <optional>

#include "attention/pack.hpp"
#include "attention/prefetch.hpp"
#include "attention/query_tiles.hpp"
#include "attention/run.hpp"
#include "onednn/matmul.hpp"

namespace attn::detail {

class PrefillPass {
 public:
  PrefillPass(const PreparedCall& prepared, const AttentionTensors& tensors, const KvLayout& layout,
              const RowScores& row_scores, const Packer& packer, const ThreadScratch& scratch);

  /// Writes O and lse of block `q_block` of the head's rows.
  /// next_head: whose K and V to bring nearer meanwhile, if any.
  void compute(const HeadQueries& place, std::int64_t q_block, const PackedHead& packed,
               const std::optional<HeadIndex>& next_head = {});

 private:
  void find_queries(const QueryBlock& rows);
  void process_tile(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                    const PackedHead& packed, bool scores_made);
  void make_scores(QueryTile& tile, const kernels::Panels& keys);
  void add_values(const QueryTile& tile, const PackedHead& packed, std::int64_t block);
  void plan_prefetch(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                     const std::optional<HeadIndex>& next_head);
  bool whole_block(const QueryBlock& rows, std::int64_t block) const;

  const Blocking& blocking_;
  const Sizes& sizes_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  const KvLayout& layout_;
  const RowScores& row_scores_;
  const Packer& packer_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  const float* queries_ = nullptr;
  std::int64_t query_stride_ = 0;
  std::optional<onednn::MatmulCall> score_matmul_;
  PrefetchList ahead_;
};

}  // namespace attn::detail
