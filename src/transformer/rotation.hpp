// The rotary positions of an attention block.
#pragma once

#include <attn/rope.hpp>

#include <cstdint>
#include <memory>
#include <optional>

#include "cache/cache_ref.hpp"
#include "transformer/forward_scratch.hpp"

namespace attn::detail {

/// Rotates queries and keys. Where the frequencies depend on the length of a sequence (dynamic
/// scaling, LongRoPE), the new tokens of each forward are rotated for the length that their
/// sequence has after it; keys that are in the cache already keep the rotation that they were
/// given.
class Rotation {
 public:
  Rotation(const RopeSettings& settings, std::int64_t head_dim, std::int64_t max_positions,
           ForwardScratch::Memory& memory);

  /// The new tokens, the cache that they will be in, and the lengths of padded sequences.
  struct Tokens {
    const TokenShape& shape;
    const CacheRef& cache;
    const TensorView& kv_lens;  // absent: not padded

    /// The number of tokens that a sequence has with the new ones.
    std::int64_t length_after(std::int64_t entry) const;
  };
  /// Rotates q and k [rows, heads, tokens, head_dim] of the new tokens in place; ragged tokens are
  /// one row. With a cache, k is rotated only if append_rope() is empty.
  void apply(const MutableTensorView& q, const MutableTensorView& k, const Tokens& tokens,
             ForwardScratch::Memory& memory, const Execution& execution) const;
  /// The tables with which append() rotates keys on their way into a cache, so that a cache of a
  /// narrower type rounds only once. Empty where they would depend on the length.
  std::optional<Rope> append_rope() const;

 private:
  Rope tables_of(const Tokens& tokens, ForwardScratch::Memory& memory) const;

  ForwardScratch::Memory::RopeKey key_;
  std::shared_ptr<const RopeTables> tables_;  // null where they depend on the length
};

}  // namespace attn::detail
