// Sizes whose factors come from a file or a user and may overflow.
#pragma once

#include <attn/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

namespace attn::detail {

/// a * b and a + b for numbers of 0 or more. What overflows gives the largest number, as does all
/// that is made of it.
template <class T>
constexpr T saturating_product(T a, std::type_identity_t<T> b) noexcept {
  T product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<T>::max() : product;
}
template <class T>
constexpr T saturating_sum(T a, std::type_identity_t<T> b) noexcept {
  T sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<T>::max() : sum;
}

/// A function takes tensors of at most so many elements, at most that far apart in any dim. No
/// machine has memory for more, although a stride of 0 needs none. So the sizes that follow from
/// one tensor fit 64 bits, in bytes too, and need no checks; only products of the sizes of several
/// tensors do.
inline constexpr std::int64_t most_elements = std::int64_t{1} << 48;

/// The distance between the first element of a dim and its end, and at least one step.
constexpr std::int64_t reach(std::int64_t extent, std::int64_t stride) noexcept {
  if (stride < -most_elements || stride > most_elements) return most_elements + 1;
  return saturating_product(std::max<std::int64_t>(extent, 1), stride < 0 ? -stride : stride);
}

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
