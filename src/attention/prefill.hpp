// The prefill pass: a block of rows of one KV head against all packed keys that they see.
#pragma once

#include <optional>

#include "attention/call_context.hpp"
#include "attention/pack.hpp"
#include "attention/packed_values.hpp"
#include "attention/prefetch.hpp"
#include "attention/query_tiles.hpp"
#include "attention/whole_tiles.hpp"

namespace attn::detail {

class PrefillPass final : RowProbabilities {
 public:
  PrefillPass(const CallContext& context, const Packer& packer, const ThreadScratch& scratch);

  /// Writes O and lse of block `q_block` of the rows of a head. The K and V of `next_head` are
  /// prefetched meanwhile.
  void compute(const HeadQueries& head, std::int64_t q_block, const PackedHead& packed,
               const std::optional<HeadIndex>& next_head);

 private:
  QueryTile probabilities_of(const QueryBlock& rows, std::int64_t r, std::int64_t block) override;
  bool may_have_tiny_values(std::int64_t block) const override;
  bool tiny_values(const QueryBlock& rows) const;
  void find_queries(const QueryBlock& rows);
  void process_whole_tile(const QueryBlock& rows, std::int64_t block, std::int64_t keys,
                          const std::optional<HeadIndex>& next_head);
  void process_tile(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                    std::int64_t first_key);
  void compute_scores(QueryTile& tile, std::int64_t block);
  void multiply(const QueryTile& tile, std::int64_t block, KeyRange keys);
  void plan_prefetch(const QueryBlock& rows, std::int64_t first_row, std::int64_t block,
                     const std::optional<HeadIndex>& next_head);

  const CallContext& context_;
  const Packer& packer_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  PackedValues values_;
  WholeTiles whole_tiles_;
  const PackedHead* packed_ = nullptr;  // of the head that is computed
  const float* queries_ = nullptr;
  std::int64_t query_stride_ = 0;
  PrefetchList prefetch_;
};

}  // namespace attn::detail
