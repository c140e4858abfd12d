// Whole vectors and their lanes: what follows from the functions of simd.inl, for every instruction
// set alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/simd.inl"

namespace attn::kernels {
namespace {

ATTN_INLINE constexpr std::int64_t round_down(std::int64_t n) {
  return n & -std::int64_t{vector_width};
}
ATTN_INLINE constexpr std::int64_t round_up(std::int64_t n) {
  return round_down(n + vector_width - 1);
}

template <std::size_t... Lane>
consteval Lanes numbered_lanes(std::index_sequence<Lane...>) {
  return Lanes{static_cast<std::int32_t>(Lane)...};
}
inline constexpr Lanes lane_numbers = numbered_lanes(std::make_index_sequence<vector_width>{});

/// Whether any byte of the lanes is not 0.
template <class AnyLanes>
ATTN_INLINE bool any_lane(AnyLanes lanes) {
  typedef std::uint64_t Words __attribute__((vector_size(vector_width * 4)));
  const Words words = reinterpret_cast<Words>(lanes);
  std::uint64_t any = 0;
  ATTN_UNROLL for (std::size_t n = 0; n < sizeof(Words) / 8; ++n) any |= words[n];
  return any != 0;
}

template <int Shift, std::size_t... Lane>
ATTN_INLINE Vector rotate_lanes(Vector v, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(v, v, ((static_cast<int>(Lane) + Shift) % vector_width)...);
}

/// Folds all lanes of v into each lane, in halves: the order is the same in every run.
template <int Shift = vector_width / 2, class Fold>
ATTN_INLINE Vector fold_lanes(Vector v, Fold fold) {
  const Vector folded = fold(v, rotate_lanes<Shift>(v, std::make_index_sequence<vector_width>{}));
  if constexpr (Shift == 1) {
    return folded;
  } else {
    return fold_lanes<Shift / 2>(folded, fold);
  }
}
ATTN_INLINE float sum_of_lanes(Vector v) {
  return fold_lanes(v, [](Vector a, Vector b) { return a + b; })[0];
}
ATTN_INLINE float max_of_lanes(Vector v) {
  return fold_lanes(v, [](Vector a, Vector b) { return max(a, b); })[0];
}

/// In double: lane n plus lane n + W / 2.
ATTN_INLINE Doubles sum_of_halves(Vector v) {
  return half_as_doubles<0>(v) + half_as_doubles<1>(v);
}
ATTN_INLINE HalfVector load_half(const float* from) {
  HalfVector half;
  __builtin_memcpy(&half, from, sizeof half);
  return half;
}
ATTN_INLINE HalfVector as_floats(Doubles doubles) {
  return __builtin_convertvector(doubles, HalfVector);
}

}  // namespace
}  // namespace attn::kernels
