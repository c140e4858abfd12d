// Few rows of a KV head against its keys where they lie: decode, and short appends. Nothing is
// packed; a key and its value are read once for all rows.
#pragma once

#include "attention/query_tiles.hpp"
#include "attention/run.hpp"

namespace attn::detail {

/// Keys that this thread will probably read next.
struct NextKeys {
  std::int64_t batch = 0;
  std::int64_t kv_head = 0;
  KeyRange keys;
};

class DecodePass {
 public:
  DecodePass(const PreparedCall& prepared, const AttentionTensors& tensors, const KvLayout& layout,
             const RowScores& row_scores, const ThreadScratch& scratch);

  /// Writes O and lse of all rows of a head.
  void compute(const HeadQueries& place, const NextKeys& next);
  /// The states of all rows over the keys of `among` alone.
  void compute_part(const HeadQueries& place, KeyRange among, const RowStates& states,
                    const NextKeys& next);
  /// Writes O and lse from the parts, merged in their order: states of place.rows rows each, one
  /// after another.
  void merge_parts(const HeadQueries& place, const RowStates& parts, std::int64_t count);

 private:
  void read_queries(const QueryBlock& rows);
  void process_tile(QueryTile& tile, const RowStates& states);
  void make_scores(QueryTile& tile);
  void weigh(const QueryTile& tile, const RowStates& states);
  void add_values(const QueryTile& tile, const RowStates& states);
  void add(const kernels::StoredArithmetic& arithmetic, const QueryTile& tile, std::int64_t n,
           const kernels::StoredRows& values, const RowStates& states,
           const kernels::PrefetchRows& ahead) const;
  void add_finite_values(const QueryTile& tile, const RowStates& states);
  kernels::PrefetchRows keys_to_prefetch(const QueryTile& tile, std::int64_t n,
                                         std::int64_t most) const;
  void merge(const RowStates& part, const RowStates& into, std::int64_t rows) const;
  RowStates part_of(const RowStates& states, std::int64_t first_row) const;
  void copy(const RowStates& from, std::int64_t rows, const RowStates& to) const;
  template <class Use>
  void for_each_span(const QueryTile& tile, Use use);
  template <class Use>
  void through_staging(const Row& first, const kernels::StoredRows& rows, Use use);

  const Blocking& blocking_;
  const Sizes& sizes_;
  const kernels::Kernels& kernels_;
  const kernels::StoredArithmetic& arithmetic_;
  bool bf16_queries_;  // multiplied as pairs
  const KvLayout& layout_;
  const RowScores& row_scores_;
  ThreadScratch scratch_;
  NextKeys next_;
  QueryTiles tiles_;
};

}  // namespace attn::detail
