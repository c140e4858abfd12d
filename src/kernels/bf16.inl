// Multiplication of packed pairs of bf16 into f32, where the instruction set has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/gradient.inl"
#include "kernels/kernels.hpp"
#include "kernels/lanes.inl"
#include "kernels/matmul.inl"
#include "kernels/online_softmax.inl"
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
/// the space: probability j replaces score j / 2, which has been read by then. If `Scaled`, each is
/// multiplied by the scale of its value, whose row holds integers.
template <bool Scaled>
struct Bf16Probabilities {
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  template <class Exponential>
  static ATTN_INLINE Vector make(float* row, std::int64_t j, const float* scales,
                                 Exponential exponential) {
    static_assert(chunk_depth == vector_width);
    const Vector low = exponential(load(row + j)), high = exponential(load(row + j + vector_width));
    if constexpr (Scaled) {
      store(row + j / 2,
            round_to_bf16_pairs(low * load(scales + j), high * load(scales + j + vector_width)));
    } else {
      store(row + j / 2, round_to_bf16_pairs(low, high));
    }
    return low + high;
  }
};

void softmax_to_pairs(const SoftmaxTile& tile, float* pairs, std::int64_t stride) {
  softmax_rows_with(tile, 2 * vector_width,
                    [=](std::int64_t r, const float* row, std::int64_t j, auto exponential)
                        ATTN_INLINE_LAMBDA {
                          const Vector low = exponential(load(row + j)),
                                       high = exponential(load(row + j + vector_width));
                          store(pairs + r * stride + j / 2, round_to_bf16_pairs(low, high));
                          return low + high;
                        });
}

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

template <bool Scaled>
inline constexpr Arithmetic arithmetic_of_pairs = {
    .vnni_factor = 2,
    .chunk_keys = 2 * chunk_depth,
    .matmul = matmul<Bf16>,
    .matmul_transposed = matmul<Bf16, Order::transposed>,
    .online_softmax = online_softmax<Bf16Probabilities<Scaled>>,
    .softmax_to_pairs = softmax_to_pairs,
    .pack_finite = pack_finite_bf16,
    .pair_rows = pair_rows};
inline constexpr Arithmetic bf16_arithmetic = arithmetic_of_pairs<false>;
inline constexpr Arithmetic i8_arithmetic = arithmetic_of_pairs<true>;

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

/// Floats of small integers end with 16 bits of 0, so that two of them make a pair.
ATTN_INLINE Vector pair_of_integers(Vector low, Vector high) {
  return from_bits(bits_of(low) >> 16 | bits_of(high));
}

struct I8Pairs {
  using Element = std::int8_t;
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  static ATTN_INLINE Vector load(const Element* from) {
    return pair_of_integers(load_i8(from), load_i8(from + vector_width));
  }
};

/// The last of the integers of a row, fewer than W; the other lanes are 0.
ATTN_INLINE Vector load_integers(const std::int8_t* from, std::int64_t count) {
  return count >= vector_width ? load_i8(from) : load_first<StoredI8>(from, count);
}

/// Integers of two rows side by side, as bf16.
ATTN_INLINE Vector pair_integers(const std::int8_t* even, const std::int8_t* odd,
                                 std::int64_t count) {
  const Vector low = even == nullptr ? Vector{} : load_integers(even, count);
  const Vector high = odd == nullptr ? Vector{} : load_integers(odd, count);
  return pair_of_integers(low, high);
}

/// Adds the values of the pairs [first, last), times their probabilities, to the columns from n on.
template <int Rows, int Vectors>
void add_columns_to_pairs(const StoredValuesTile& tile, std::int64_t first, std::int64_t last,
                          std::int64_t n) {
  float* const out = tile.out + n;
  const std::int64_t left = tile.values.width - n, stride = tile.values.stride;
  Vector sums[Rows][Vectors];
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] =
        load(out + r * tile.out_stride + v * vector_width);
  }
  for (std::int64_t m = first; m < last; ++m) {
    const std::int64_t j = 2 * m - (tile.begins_odd ? 1 : 0);
    const auto* const row = reinterpret_cast<const std::int8_t*>(tile.values.data + j * stride) + n;
    const std::int8_t* const even = j >= 0 ? row : nullptr;
    const std::int8_t* const odd = j + 1 < tile.values.count ? row + stride : nullptr;
    if (n % line_size == 0 && j >= 0 && j + 1 < tile.prefetch.count) {
      prefetch_line(tile.prefetch.data + j * tile.prefetch.stride + n);
      prefetch_line(tile.prefetch.data + (j + 1) * tile.prefetch.stride + n);
    }
    Vector x[Vectors];
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) {
      const std::int64_t at = v * vector_width;
      x[v] = pair_integers(even == nullptr ? nullptr : even + at,
                           odd == nullptr ? nullptr : odd + at, left - at);
    }
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector p = broadcast(tile.probabilities[r * tile.stride + m]);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] =
          multiply_add_bf16_pairs(x[v], p, sums[r][v]);
    }
  }
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v)
        store(out + r * tile.out_stride + v * vector_width, sums[r][v]);
  }
}

template <int Rows>
void add_chunk_to_pairs(const StoredValuesTile& tile, std::int64_t first, std::int64_t last) {
  const std::int64_t width = tile.values.width;
  std::int64_t n = 0;
  for (; n + panel_width <= width; n += panel_width)
    add_columns_to_pairs<Rows, panel_vectors>(tile, first, last, n);
  for (; n < width; n += vector_width) add_columns_to_pairs<Rows, 1>(tile, first, last, n);
}

template <std::size_t... Index>
ATTN_INLINE auto add_chunk_to_pairs_function(std::int64_t rows, std::index_sequence<Index...>) {
  using Function = void (*)(const StoredValuesTile&, std::int64_t, std::int64_t);
  static constexpr Function functions[] = {add_chunk_to_pairs<static_cast<int>(Index) + 1>...};
  return functions[rows - 1];
}

void add_i8_values_to_pairs(const StoredValuesTile& tile) {
  constexpr std::int64_t chunk = 8;  // so many pairs stay in L1 with all of their columns
  const auto function =
      add_chunk_to_pairs_function(tile.rows, std::make_index_sequence<tile_rows>{});
  const std::int64_t pairs = (tile.values.count + (tile.begins_odd ? 1 : 0) + 1) / 2;
  for (std::int64_t first = 0; first < pairs; first += chunk)
    function(tile, first, first + chunk < pairs ? first + chunk : pairs);
}

inline constexpr StoredArithmetic stored_bf16 = {
    .scores = stored_scores<StoredBf16>,
    .scores_with_bf16_queries = stored_scores<Bf16Pairs>,
    .add_values = stored_add_values<StoredBf16>,
    .add_values_to_pairs = nullptr};
inline constexpr StoredArithmetic stored_i8 = {.scores = stored_scores<StoredI8>,
                                               .scores_with_bf16_queries = stored_scores<I8Pairs>,
                                               .add_values = stored_add_values<StoredI8>,
                                               .add_values_to_pairs = add_i8_values_to_pairs};

#else

inline constexpr Arithmetic bf16_arithmetic{};
inline constexpr Arithmetic i8_arithmetic{};
inline constexpr StoredArithmetic stored_bf16 = stored_arithmetic<StoredBf16>;
inline constexpr StoredArithmetic stored_i8 = stored_arithmetic<StoredI8>;

#endif

}  // namespace
}  // namespace attn::kernels
