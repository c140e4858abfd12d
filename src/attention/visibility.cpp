#include "attention/visibility.hpp"

#include <algorithm>

namespace attn::detail {

KeyVisibility::KeyVisibility(const Problem& problem, std::int64_t q_len, std::int64_t kv_length,
                             std::int64_t key_count) noexcept
    : offset_(position_offset(problem, q_len, kv_length)),
      key_count_(std::min(kv_length, key_count)),
      causal_(problem.causal),
      window_(problem.window) {}

std::int64_t KeyVisibility::clamp(std::int64_t key) const noexcept {
  return std::clamp<std::int64_t>(key, 0, key_count_);
}

KeyRange KeyVisibility::range_of(std::int64_t q_index) const noexcept {
  const std::int64_t p = position(q_index);
  KeyRange range{0, key_count_};
  if (window_.left) range.begin = clamp(p - *window_.left);
  if (window_.right) range.end = clamp(p + *window_.right + 1);
  if (causal_) range.end = std::min(range.end, clamp(p + 1));
  return range;
}

KeyRange KeyVisibility::visible_range(std::int64_t first, std::int64_t last) const noexcept {
  return {range_of(first).begin, range_of(last).end};
}

}  // namespace attn::detail
