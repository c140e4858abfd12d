// Values that are not finite.
//
// O += P V multiplies every value of a tile with a probability, and the probability of a hidden key
// is 0. But 0 * NaN and 0 * inf are NaN: a NaN in V under a hidden key would reach O. So products
// never see values that are not finite: packing replaces them by 0 and notes the block
// (PackedHead::finite), and the decode pass, which reads V in place, repeats a tile whose O is not
// finite with such values replaced by 0. Then the values that were replaced are added one by one,
// only to the rows that see their key. For that, note_visible() records which keys each row sees
// before its scores become probabilities; afterwards a probability of 0 may also belong to a
// visible key. All of this happens only for tiles that have such values.
#pragma once

#include "attention/call_context.hpp"
#include "attention/query_tile.hpp"

namespace attn::detail {

class NonFiniteValues {
 public:
  /// `staging` holds one row of values.
  NonFiniteValues(const CallContext& context, const Blocking& blocking, float* staging) noexcept
      : context_(context), blocking_(blocking), staging_(staging) {}

  /// Records which keys each row sees. The tile has scores; those of hidden keys are -inf.
  static void note_visible(const QueryTile& tile);
  /// Adds the values that are not finite, times their probabilities, to the rows that see them. The
  /// tile has probabilities, packed as vnni_factor says; out: of the rows of the tile.
  void add(const QueryTile& tile, float* out) const;
  /// Reads a value with 0 in the place of what is not finite, not multiplied by its scale.
  void read_finite(Row value, float* to) const;

 private:
  float probability(const QueryTile& tile, std::int64_t r, std::int64_t j) const;

  const CallContext& context_;
  const Blocking& blocking_;
  float* staging_;
};

}  // namespace attn::detail
