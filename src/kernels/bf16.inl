// Multiplication of packed pairs of bf16 into f32, where the instruction set has it.
#pragma once

#include <cstdint>

#include "kernels/gradient.inl"
#include "kernels/kernels.hpp"
#include "kernels/matmul.inl"
#include "kernels/online_softmax.inl"
#include "kernels/simd.inl"
#include "kernels/stored_rows.inl"

namespace attn::kernels {
namespace {

#if defined(ATTN_BF16_DOT_PRODUCTS)

/// Packed elements that are pairs of bf16.
struct Bf16 {
  static ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return multiply_add_bf16_pairs(a, b, sum);
  }
};

/// How a chunk of scores becomes probabilities in place, rounded to packed pairs. They take half
/// the space: probability j replaces score j / 2, which has been read by then.
struct Bf16Probabilities {
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  template <class Exponential>
  static ATTN_INLINE Vector make(float* row, std::int64_t j, Exponential exponential) {
    static_assert(chunk_depth == vector_width);
    const Vector low = exponential(load(row + j)), high = exponential(load(row + j + vector_width));
    store(row + j / 2, round_to_bf16_pairs(low, high));
    return low + high;
  }
};

typedef std::uint32_t Pair __attribute__((may_alias));

/// Two rows become a row of packed pairs. The loop is over integers, which the compiler vectorizes.
ATTN_INLINE bool pack_finite_pair(const std::uint16_t* even, const std::uint16_t* odd,
                                  std::int64_t columns, Pair* dst) {
  constexpr std::uint32_t infinite = 0x7f80;
  constexpr std::uint32_t tiny = __builtin_bit_cast(std::uint32_t, tiny_bf16) >> 16;
  std::uint32_t greatest = 0;
  std::uint32_t least = 0xffffffff;  // of the magnitudes less 1: a magnitude of 0 wraps around
  for (std::int64_t n = 0; n < columns; ++n) {
    const std::uint32_t low = even[n] & 0x7fffu, high = odd[n] & 0x7fffu;
    const std::uint32_t greater = low > high ? low : high;
    const std::uint32_t less = low - 1 < high - 1 ? low - 1 : high - 1;
    greatest = greater > greatest ? greater : greatest;
    least = less < least ? less : least;
    dst[n] = std::uint32_t{even[n]} | std::uint32_t{odd[n]} << 16;
  }
  if (greatest < infinite) return least >= tiny - 1;
  const auto finite = [](std::uint32_t half) { return (half & infinite) != infinite; };
  for (std::int64_t n = 0; n < columns; ++n)
    dst[n] &= (finite(dst[n]) ? 0xffffu : 0u) | (finite(dst[n] >> 16) ? 0xffff0000u : 0u);
  return false;
}

bool pack_finite_bf16(const void* src, std::int64_t src_stride, std::int64_t rows,
                      std::int64_t columns, float* dst, const PanelLayout& layout) {
  static constexpr std::uint16_t zeros[panel_width] = {};
  const auto* values = static_cast<const std::uint16_t*>(src);
  bool finite = true;
  for (std::int64_t n = 0; n < columns; n += layout.panel_width, dst += layout.panel_stride) {
    const std::int64_t count = columns - n < layout.panel_width ? columns - n : layout.panel_width;
    for (std::int64_t r = 0; r < rows; r += 2) {
      auto* pairs = reinterpret_cast<Pair*>(dst + r / 2 * layout.row_stride);
      const std::uint16_t* even = values + r * src_stride + n;
      finite &= pack_finite_pair(even, r + 1 < rows ? even + src_stride : zeros, count, pairs);
      for (std::int64_t pad = count; pad < round_up(count); ++pad) pairs[pad] = 0;
    }
  }
  return finite;
}

inline constexpr Arithmetic bf16_arithmetic = {.vnni_factor = 2,
                                               .chunk_keys = 2 * chunk_depth,
                                               .matmul = matmul<Bf16>,
                                               .matmul_transposed = matmul<Bf16, Order::transposed>,
                                               .online_softmax = online_softmax<Bf16Probabilities>,
                                               .pack_finite = pack_finite_bf16,
                                               .pair_rows = pair_rows};

/// Keys as packed pairs, for queries that are bf16 as well: half as many multiply-adds as for
/// widened keys.
struct Bf16Pairs {
  using Element = std::uint16_t;
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  static ATTN_INLINE Vector load(const Element* from) {
    Vector pairs;
    __builtin_memcpy(&pairs, from, sizeof pairs);
    return pairs;
  }
};

struct I8Pairs {
  using Element = std::int8_t;
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  static ATTN_INLINE Vector load(const Element* from) {
    const Vector low = load_i8(from), high = load_i8(from + vector_width);
    return round_to_bf16_pairs(low, high);
  }
};

template <class Stored, class Pairs>
inline constexpr StoredArithmetic stored_arithmetic_with_pairs = {
    .scores = stored_scores<Stored>,
    .scores_with_bf16_queries = stored_scores<Pairs>,
    .add_values = stored_add_values<Stored>};
inline constexpr StoredArithmetic stored_bf16 = stored_arithmetic_with_pairs<StoredBf16, Bf16Pairs>;
inline constexpr StoredArithmetic stored_i8 = stored_arithmetic_with_pairs<StoredI8, I8Pairs>;

#else

inline constexpr Arithmetic bf16_arithmetic{};
inline constexpr StoredArithmetic stored_bf16 = stored_arithmetic<StoredBf16>;
inline constexpr StoredArithmetic stored_i8 = stored_arithmetic<StoredI8>;

#endif

}  // namespace
}  // namespace attn::kernels
