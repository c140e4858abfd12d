// Which keys lie in sight: causal, window and lengths as intervals of keys, so that hidden blocks
// are never computed.
#pragma once

#include <cstdint>

#include "attention/problem.hpp"

namespace attn::detail {

/// Keys begin <= j < end.
struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool empty() const noexcept { return begin >= end; }
  std::int64_t size() const noexcept { return empty() ? 0 : end - begin; }
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

KeyRange intersection(KeyRange a, KeyRange b) noexcept;

/// The interval masks of one batch entry. Both ends of a row's range grow with its query index,
/// never shrink.
class KeyVisibility {
 public:
  /// key_count: keys from here on are hidden, by a short mask.
  KeyVisibility(const Problem& problem, std::int64_t q_len, std::int64_t kv_length,
                std::int64_t key_count) noexcept;

  /// The position of a query on the axis of keys.
  std::int64_t position(std::int64_t q_index) const noexcept { return q_index + offset_; }
  KeyRange of(std::int64_t q_index) const noexcept;
  /// All that the queries first..last see between them.
  KeyRange visible_range(std::int64_t first, std::int64_t last) const noexcept;

 private:
  std::int64_t clamp(std::int64_t key) const noexcept;

  std::int64_t offset_;
  std::int64_t key_count_;
  bool causal_;
  Window window_;
};

}  // namespace attn::detail
