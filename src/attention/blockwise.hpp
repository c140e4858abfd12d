// The blockwise pass: more rows of a KV head than the decode pass serves well, and too few to pack
// K for. Keys are multiplied in place, at the rate of the micro-kernel. It serves decode steps
// whose query heads share one KV head (MQA, MLA), and the verification of drafted tokens.
#pragma once

#include "attention/call_context.hpp"
#include "attention/decode.hpp"
#include "attention/pack.hpp"
#include "attention/packed_values.hpp"
#include "attention/prefetch.hpp"
#include "attention/query_tiles.hpp"

namespace attn::detail {

class BlockwisePass final : RowProbabilities {
 public:
  BlockwisePass(const CallContext& context, const Packer& packer, const ThreadScratch& scratch);

  /// Computes the states of all rows of a head over the keys of `among` alone. Returns whether
  /// values of those are not finite or, of bf16, tiny.
  bool compute_part(const HeadQueries& head, KeyRange among, const SoftmaxStates& states,
                    const NextKeys& next);
  /// Writes O and lse of all rows of a head from their states in the scratch memory.
  void finish(const HeadQueries& head, bool tiny_values);

 private:
  const Blocking& blocking() const { return context_.plan().packed; }
  QueryTile probabilities_of(const QueryBlock& rows, std::int64_t r, std::int64_t block) override;
  void read_queries(const QueryBlock& rows, std::int64_t first_row, std::int64_t count);
  Packer::Keys in_chunks(const HeadQueries& head, KeyRange keys) const;
  void compute_scores(const HeadQueries& head, std::int64_t block, KeyRange keys);
  void multiply(const Packer::Operands& keys, std::int64_t count);
  void pack_values(const HeadQueries& head, std::int64_t block, KeyRange keys);
  void plan_prefetch(const QueryBlock& rows, KeyRange keys);

  const CallContext& context_;
  const Packer& packer_;
  ThreadScratch scratch_;
  QueryTiles tiles_;
  PackedValues values_;
  PrefetchList prefetch_;
  NextKeys next_;
  kernels::Panels queries_{};  // Q^T
  std::int64_t num_queries_ = 0;
  bool scales_are_good_ = true;  // what pack_scales() said of the block
};

}  // namespace attn::detail
