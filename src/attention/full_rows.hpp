// The pass for normalizers that are no online softmax: the probabilities of a row depend on all of
// its scores at once, or are computed as if they did.
#pragma once

#include "attention/call_context.hpp"
#include "attention/non_finite.hpp"
#include "attention/pack.hpp"
#include "attention/query_tiles.hpp"
#include "attention/whole_tiles.hpp"

namespace attn::detail {

class FullRowPass final : RowProbabilities {
 public:
  FullRowPass(const CallContext& context, const Packer& packer, const ThreadScratch& scratch);

  /// Writes O of block `q_block` of the rows of a head.
  void compute(const HeadQueries& head, std::int64_t q_block, const PackedHead& packed);

 private:
  QueryTile probabilities_of(const QueryBlock& rows, std::int64_t r, std::int64_t block) override;
  void multiply_whole_tiles(const QueryBlock& rows);
  void compute_rows(const QueryBlock& rows);
  void read_queries(const QueryBlock& rows);
  void compute_scores(const QueryBlock& rows, std::int64_t block);
  void multiply(QueryTile& tile, std::int64_t block);
  void normalize(const QueryBlock& rows, std::int64_t r);
  void add_values(const QueryBlock& rows, std::int64_t block);
  bool any_probability(const QueryBlock& rows, KeyRange keys) const;
  KeyRange seen_by(const QueryBlock& rows, std::int64_t r) const;
  const Blocking& blocking() const { return context_.plan().packed; }
  float* scores(std::int64_t r) const { return scores_ + r * row_stride(blocking()); }

  const CallContext& context_;
  const Packer& packer_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  NonFiniteValues non_finite_;
  WholeTiles whole_tiles_;
  const PackedHead* packed_ = nullptr;      // of the head that is computed
  const QueryBlock* multiplied_ = nullptr;  // rows whose whole tiles oneDNN has multiplied
  float* scores_ = nullptr;                 // of the rows that are computed
};

}  // namespace attn::detail
