// Multiplication of packed pairs of bf16 into f32, where the instruction set has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

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

/// The greatest magnitude of some values as bits, and the least one above 0, less 1: a magnitude of
/// 0 wraps around.
struct Magnitudes {
  Halves greatest = {};
  Halves least_less_1 = Halves{} - 1;

  ATTN_INLINE void include(Halves values) {
    const Halves magnitudes = values & 0x7fff, less_1 = magnitudes - 1;
    greatest = magnitudes > greatest ? magnitudes : greatest;
    least_less_1 = less_1 < least_less_1 ? less_1 : least_less_1;
  }
  bool any_not_finite() const {
    for (int lane = 0; lane < 2 * vector_width; ++lane) {
      if (greatest[lane] >= 0x7f80) return true;
    }
    return false;
  }
  bool any_tiny() const {
    constexpr std::uint32_t tiny = __builtin_bit_cast(std::uint32_t, tiny_bf16) >> 16;
    for (int lane = 0; lane < 2 * vector_width; ++lane) {
      if (least_less_1[lane] < tiny - 1) return true;
    }
    return false;
  }
};

/// Lanes of two vectors side by side: those of their lower halves, or of their upper ones.
template <bool Upper, std::size_t... Lane>
ATTN_INLINE Vector pair_halves(Halves even, Halves odd, std::index_sequence<Lane...>) {
  constexpr int from = Upper ? vector_width : 0;
  return reinterpret_cast<Vector>(__builtin_shufflevector(
      even, odd, (from + static_cast<int>(Lane) / 2 + (Lane % 2 ? 2 * vector_width : 0))...));
}

/// Two rows become a row of packed pairs, padded to whole vectors.
ATTN_INLINE void pack_pair_of_rows(const std::uint16_t* even, const std::uint16_t* odd,
                                   std::int64_t columns, float* dst, Magnitudes& seen) {
  constexpr auto lanes = std::make_index_sequence<2 * vector_width>{};
  constexpr std::int64_t most = 2 * vector_width;
  for (std::int64_t n = 0; n < columns; n += most) {
    const std::int64_t count = columns - n < most ? columns - n : most;
    const Halves low = load_halves(even + n, count);
    const Halves high = odd != nullptr ? load_halves(odd + n, count) : Halves{};
    seen.include(low);
    seen.include(high);
    store(dst + n, pair_halves<false>(low, high, lanes));
    if (count > vector_width) store(dst + n + vector_width, pair_halves<true>(low, high, lanes));
  }
}

/// Replaces what is not finite by 0.
void keep_finite_halves(float* pairs, std::int64_t count) {
  constexpr std::uint32_t infinite = 0x7f80;
  const auto finite = [](std::uint32_t half) { return (half & infinite) != infinite; };
  typedef std::uint32_t Pair __attribute__((may_alias));
  auto* const bits = reinterpret_cast<Pair*>(pairs);
  for (std::int64_t n = 0; n < count; ++n)
    bits[n] &= (finite(bits[n]) ? 0xffffu : 0u) | (finite(bits[n] >> 16) ? 0xffff0000u : 0u);
}

bool pack_finite_bf16(const void* src, std::int64_t src_stride, std::int64_t rows,
                      std::int64_t columns, float* dst, const PanelLayout& layout) {
  const auto* const values = static_cast<const std::uint16_t*>(src);
  Magnitudes seen;
  const auto for_each_pair = [&](auto use) ATTN_INLINE_LAMBDA {
    float* panel = dst;
    for (std::int64_t n = 0; n < columns; n += layout.panel_width, panel += layout.panel_stride) {
      const std::int64_t left = columns - n;
      for (std::int64_t r = 0; r < rows; r += 2)
        use(r, n, left < layout.panel_width ? left : layout.panel_width,
            panel + r / 2 * layout.row_stride);
    }
  };
  for_each_pair(
      [&](std::int64_t r, std::int64_t n, std::int64_t count, float* to) ATTN_INLINE_LAMBDA {
        const std::uint16_t* const even = values + r * src_stride + n;
        pack_pair_of_rows(even, r + 1 < rows ? even + src_stride : nullptr, count, to, seen);
      });
  if (!seen.any_not_finite()) return !seen.any_tiny();
  for_each_pair([](std::int64_t, std::int64_t, std::int64_t count, float* to) {
    keep_finite_halves(to, count);
  });
  return false;
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
