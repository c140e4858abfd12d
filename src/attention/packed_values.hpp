// The second half of a tile whose values are packed: scores become probabilities, and O += P V.
#pragma once

#include "attention/call_context.hpp"
#include "attention/non_finite.hpp"
#include "attention/pack.hpp"
#include "attention/query_tile.hpp"
#include "attention/softmax_state.hpp"

namespace attn::detail {

class PackedValues {
 public:
  PackedValues(const CallContext& context, const Packer& packer, float* staging) noexcept
      : context_(context), packer_(packer), non_finite_(context, context.plan().packed, staging) {}

  /// The online softmax of a tile with transformed scores, and its product with the values of block
  /// `block` of `packed`. `states` are those of the rows of the tile.
  void add(const QueryTile& tile, const PackedHead& packed, std::int64_t block,
           const SoftmaxStates& states) const;

 private:
  const CallContext& context_;
  const Packer& packer_;
  NonFiniteValues non_finite_;
};

}  // namespace attn::detail
