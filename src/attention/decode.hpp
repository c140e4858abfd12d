// The decode pass: few rows of a KV head against keys and values that are read in place. Nothing is
// packed; each key and value is read once for all rows. It serves decode steps and short appends.
#pragma once

#include "attention/call_context.hpp"
#include "attention/non_finite.hpp"
#include "attention/query_tiles.hpp"

namespace attn::detail {

/// Keys that this thread will probably read next.
struct NextKeys {
  std::int64_t batch = 0;
  std::int64_t kv_head = 0;
  KeyRange keys;
};

class DecodePass final : RowProbabilities {
 public:
  DecodePass(const CallContext& context, const ThreadScratch& scratch);

  /// Computes the states of all rows over the keys of `among` alone. Returns whether products with
  /// values may have been too small for bf16.
  bool compute_part(const HeadQueries& head, KeyRange among, const SoftmaxStates& states,
                    const NextKeys& next);
  /// Writes O and lse of all rows of a head from their states in the scratch memory.
  void finish(const HeadQueries& head, bool tiny_values);

 private:
  const Blocking& blocking() const { return context_.plan().unpacked; }
  QueryTile probabilities_of(const QueryBlock& rows, std::int64_t r, std::int64_t block) override;
  void read_queries(const QueryBlock& rows);
  void process_tile(QueryTile& tile, const SoftmaxStates& states);
  void compute_scores(QueryTile& tile);
  void softmax_rows(const QueryTile& tile, const SoftmaxStates& states);
  void add_values(const QueryTile& tile, const SoftmaxStates& states);
  void add_finite_values(const QueryTile& tile, const SoftmaxStates& states);
  void pair_probabilities(const QueryTile& tile, bool any_scale);
  void add_values_to_pairs(const QueryTile& tile, const SoftmaxStates& states);
  void add(const kernels::StoredArithmetic& arithmetic, const QueryTile& tile, std::int64_t n,
           const kernels::StoredRows& values, const SoftmaxStates& states,
           const kernels::PrefetchRows& ahead) const;
  kernels::PrefetchRows keys_to_prefetch(const QueryTile& tile, std::int64_t n,
                                         std::int64_t most) const;
  template <class Use>
  void for_each_span(const QueryTile& tile, Use use);
  template <class Use>
  void through_staging(const Row& first, const kernels::StoredRows& rows, Use use);

  const CallContext& context_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  NonFiniteValues non_finite_;
  NextKeys next_;
  bool pairs_ = false;  // probabilities are multiplied as bf16
  bool tiny_values_ = false;
};

}  // namespace attn::detail
