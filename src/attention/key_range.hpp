// An interval of keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace attn::detail {

/// The keys j with begin <= j < end.
struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool empty() const noexcept { return begin >= end; }
  std::int64_t size() const noexcept { return empty() ? 0 : end - begin; }
  friend bool operator==(const KeyRange&, const KeyRange&) = default;
};

inline constexpr KeyRange all_keys{0, std::numeric_limits<std::int64_t>::max()};

inline KeyRange intersection(KeyRange a, KeyRange b) noexcept {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

}  // namespace attn::detail
