// How much memory a dense tensor takes, where the numbers come from strangers.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace attn::detail {

/// Bytes of a dense tensor; nothing for a negative extent or more bytes than a pointer difference
/// counts. Extents of 0 do not excuse the others, so that products of any of the extents are safe
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
