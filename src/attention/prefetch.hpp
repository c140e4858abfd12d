// Memory to prefetch while a tile is multiplied. A tile of a short sequence takes no longer than a
// few cache misses, so without prefetching the multiplication would wait for memory.
#pragma once

#include <array>
#include <cstdint>

#include "iterate/row.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

class PrefetchList {
 public:
  void clear() noexcept { count_ = 0; }

  /// Adds `count` rows of `width` elements, `stride` elements apart, if the elements of a row are
  /// neighbors in memory.
  void add(const Row& first, std::int64_t stride, std::int64_t width, std::int64_t count) noexcept {
    if (count <= 0 || first.stride != 1 || count_ == walks_.size()) return;
    const auto size = static_cast<std::int64_t>(size_of(first.dtype));
    kernels::PrefetchWalk& walk = walks_[count_];
    walk = {
        .row = first.data, .row_stride = stride * size, .row_bytes = width * size, .rows = count};
    if (count_ > 0) walks_[count_ - 1].next = &walk;
    ++count_;
  }

  /// Prefetches all of it at once, to L2.
  void fetch() const noexcept {
    constexpr std::int64_t line = 64;
    for (std::size_t n = 0; n < count_; ++n) {
      const kernels::PrefetchWalk& walk = walks_[n];
      for (std::int64_t row = 0; row < walk.rows; ++row) {
        const std::byte* const begin = walk.row + row * walk.row_stride;
        for (std::int64_t at = 0; at < walk.row_bytes; at += line)
          __builtin_prefetch(begin + at, 0, 2);
      }
    }
  }

  /// Null if there is nothing to prefetch.
  kernels::PrefetchWalk* walk() noexcept { return count_ == 0 ? nullptr : walks_.data(); }

 private:
  std::array<kernels::PrefetchWalk, 5> walks_;
  std::size_t count_ = 0;
};

}  // namespace attn::detail
