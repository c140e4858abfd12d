// The size of a dense tensor whose extents come from a file or a user and may overflow.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace attn::detail {

/// The bytes of a dense tensor; no value for a negative extent, or if the size overflows a pointer
/// difference. An extent of 0 does not excuse the others: the product of any extents is safe
/// afterwards.
inline std::optional<std::int64_t> dense_size_in_bytes(const Dims& shape, DType dtype) noexcept {
  std::int64_t size = static_cast<std::int64_t>(size_of(dtype));
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
    } else if (size > std::numeric_limits<std::ptrdiff_t>::max() / extent) {
      return std::nullopt;
    } else {
      size *= extent;
    }
  }
  return empty ? 0 : size;
}

}  // namespace attn::detail
