// Causal masks, windows and lengths as intervals of keys. Blocks of keys outside these intervals
// are never computed.
#pragma once

#include <cstdint>

#include "attention/key_range.hpp"  // IWYU pragma: export
#include "attention/problem.hpp"

namespace attn::detail {

/// The interval masks of one sequence. Both ends of the range of a query never decrease from one
/// query to the next.
class KeyVisibility {
 public:
  /// Keys from key_count on are hidden, by a mask that is shorter than the keys.
  KeyVisibility(const Problem& problem, std::int64_t q_len, std::int64_t kv_length,
                std::int64_t key_count) noexcept;

  /// The position of a query on the axis of keys.
  std::int64_t position(std::int64_t q_index) const noexcept { return q_index + offset_; }
  /// The keys that a query sees.
  KeyRange range_of(std::int64_t q_index) const noexcept;
  /// The keys from the first to the last that any of the queries first, ..., last sees.
  KeyRange visible_range(std::int64_t first, std::int64_t last) const noexcept;

 private:
  std::int64_t clamp(std::int64_t key) const noexcept;

  std::int64_t offset_;
  std::int64_t key_count_;
  bool causal_;
  Window window_;
};

}  // namespace attn::detail
