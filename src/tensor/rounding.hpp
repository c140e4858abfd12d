// Division of integers with a chosen direction of rounding, for numbers of 0 or more.
#pragma once

#include <concepts>
#include <type_traits>

#include "tensor/size.hpp"

namespace attn::detail {

/// The least number of groups of `by` elements that hold n elements: ceil(n / by).
template <std::integral T>
constexpr T divide_up(T n, std::type_identity_t<T> by) noexcept {
  return n / by + (n % by != 0 ? 1 : 0);  // n + by - 1 could overflow
}

/// The least multiple of `to` that is n or more; the largest number if that overflows.
template <std::integral T>
constexpr T round_up(T n, std::type_identity_t<T> to) noexcept {
  return saturating_product(divide_up(n, to), to);
}

/// The greatest multiple of `to` that is n or less.
template <std::integral T>
constexpr T round_down(T n, std::type_identity_t<T> to) noexcept {
  return n / to * to;
}

}  // namespace attn::detail
