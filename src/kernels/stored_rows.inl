// Few query rows against keys and values that are read in place, at the speed of memory.
//
// A key is multiplied with all rows while it is in registers, by dot products along the head dim,
// so that nothing need be transposed. A value is multiplied with the broadcast probabilities of all
// rows. With 4 rows and a head dim of 128 a key and its value take 2 * 4 * 8 multiply-adds and
// about 20 other instructions on AVX-512: less than half of the time in which memory delivers them
// as f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/packed.hpp"
#include "kernels/contract/stored_rows.hpp"
#include "kernels/lanes.inl"
#include "kernels/matmul.inl"

namespace attn::kernels {
namespace {

// How a vector of elements is loaded: widened to floats.

struct Widened {
  using Operand = F32;
  static constexpr int vnni_factor = 1;
};
struct StoredF32 : Widened {
  using Element = float;
  static ATTN_INLINE Vector load(const Element* from) {
    return *reinterpret_cast<const UnalignedVector*>(from);
  }
};
struct StoredBf16 : Widened {
  using Element = std::uint16_t;
  static ATTN_INLINE Vector load(const Element* from) { return load_bf16(from); }
};
struct StoredF16 : Widened {
  using Element = std::uint16_t;
  static ATTN_INLINE Vector load(const Element* from) { return load_f16(from); }
};
struct StoredI8 : Widened {
  using Element = std::int8_t;
  static ATTN_INLINE Vector load(const Element* from) { return load_i8(from); }
};

/// The last elements of a row whose width is not a multiple of a vector; the other lanes are 0.
template <class Stored>
ATTN_INLINE Vector load_first(const typename Stored::Element* from, std::int64_t count) {
  typename Stored::Element padded[vector_width * Stored::vnni_factor] = {};
  for (std::int64_t n = 0; n < count; ++n) padded[n] = from[n];
  return Stored::load(padded);
}

/// Evenly spaced rows. All their addresses come from two registers, so that none are spilled.
struct EvenRows {
  const std::byte* first;
  std::int64_t stride;

  template <int Row>
  ATTN_INLINE const std::byte* at(std::int64_t offset) const {
    return first + offset + Row * stride;
  }
};

/// The rows to prefetch while `count` rows from `index` on are read. If fewer are left, the rows
/// that are read are prefetched, which costs nothing.
ATTN_INLINE EvenRows prefetch_rows(const PrefetchRows& prefetch, std::int64_t index,
                                   std::int64_t count, const EvenRows& read) {
  return index + count <= prefetch.count
             ? EvenRows{prefetch.data + index * prefetch.stride, prefetch.stride}
             : read;
}

inline constexpr std::int64_t line_size = 64;  // of a cache line, in bytes

/// Callers spread prefetches evenly among multiply-adds: in bursts they would fill the processor's
/// queue of misses, and everything would wait. Lines go to the second-level cache: they are used a
/// block of keys later, which is more than the first level holds.
ATTN_INLINE void prefetch_line(const std::byte* line) { __builtin_prefetch(line, 0, 2); }

typedef float Quad __attribute__((vector_size(16)));

/// Shuffles each quad of lanes: number E0 to E3 select from a's four lanes (0 to 3) and b's (4 to
/// 7).
template <int E0, int E1, int E2, int E3, std::size_t... Lane>
ATTN_INLINE Vector in_quads(Vector a, Vector b, std::index_sequence<Lane...>) {
  constexpr int picked[] = {E0, E1, E2, E3};
  return __builtin_shufflevector(a, b,
                                 (static_cast<int>(Lane) / 4 * 4 + picked[Lane % 4] % 4 +
                                  (picked[Lane % 4] < 4 ? 0 : vector_width))...);
}

/// The sum of all quads of lanes.
template <int Width, class From>
ATTN_INLINE Quad fold_quads(From v) {
  if constexpr (Width == 4) {
    return v;
  } else {
    constexpr auto half = std::make_index_sequence<Width / 2>{};
    return fold_quads<Width / 2>(part_of<0, Width / 2>(v, half) +
                                 part_of<Width / 2, Width / 2>(v, half));
  }
}

/// A vector whose quads of lanes add up to (sum of a, sum of b, sum of c, sum of d).
ATTN_INLINE Vector quads_of_sums(Vector a, Vector b, Vector c, Vector d) {
  constexpr auto lanes = std::make_index_sequence<vector_width>{};
  const Vector ab = in_quads<0, 1, 4, 5>(a, b, lanes) + in_quads<2, 3, 6, 7>(a, b, lanes);
  const Vector cd = in_quads<0, 1, 4, 5>(c, d, lanes) + in_quads<2, 3, 6, 7>(c, d, lanes);
  return in_quads<0, 2, 4, 6>(ab, cd, lanes) + in_quads<1, 3, 5, 7>(ab, cd, lanes);
}

/// Keys that are multiplied together, and the query rows for which there are accumulators.
inline constexpr int keys_at_once = 4;
inline constexpr int score_rows_at_once = vector_width > 8 ? 6 : 2;

/// The scores of four keys with each of the rows, one quad for each row.
template <class Stored, int Rows, std::size_t... Key>
ATTN_INLINE void multiply_keys(const StoredScoresTile& tile, const float* q, const EvenRows& keys,
                               const EvenRows& next_keys, Quad (&scores)[Rows],
                               std::index_sequence<Key...>) {
  using Element = typename Stored::Element;
  Vector sums[Rows][keys_at_once] = {};
  const auto step = [&](std::int64_t d, auto load_key) ATTN_INLINE_LAMBDA {
    const std::int64_t offset = d * static_cast<std::int64_t>(sizeof(Element));
    if (offset % line_size == 0)
      (prefetch_line(next_keys.template at<static_cast<int>(Key)>(offset)), ...);
    const Vector key[keys_at_once] = {load_key(
        reinterpret_cast<const Element*>(keys.template at<static_cast<int>(Key)>(offset)))...};
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector x = load(q + r * tile.q_stride + d / Stored::vnni_factor);
      ATTN_UNROLL for (int i = 0; i < keys_at_once; ++i) sums[r][i] =
          Stored::Operand::multiply_add(x, key[i], sums[r][i]);
    }
  };
  constexpr std::int64_t per_vector = vector_width * Stored::vnni_factor;
  const std::int64_t rest = tile.keys.width % per_vector, whole = tile.keys.width - rest;
  for (std::int64_t d = 0; d < whole; d += per_vector) step(d, Stored::load);
  if (rest > 0)
    step(whole,
         [rest](const auto* from) ATTN_INLINE_LAMBDA { return load_first<Stored>(from, rest); });
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    scores[r] =
        fold_quads<vector_width>(quads_of_sums(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
  }
}

template <class Stored, int Rows>
void score_rows(const StoredScoresTile& tile, std::int64_t first_row,
                const PrefetchRows& prefetch) {
  constexpr auto each_key = std::make_index_sequence<keys_at_once>{};
  const float* const q = tile.q + first_row * tile.q_stride;
  float* const to = tile.scores + first_row * tile.stride;
  const std::int64_t stride = tile.keys.stride, count = tile.keys.count;
  Quad scores[Rows];
  std::int64_t j = 0;
  for (; j + keys_at_once <= count; j += keys_at_once) {
    const EvenRows keys{tile.keys.data + j * stride, stride};
    multiply_keys<Stored, Rows>(tile, q, keys, prefetch_rows(prefetch, j, keys_at_once, keys),
                                scores, each_key);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r)
        __builtin_memcpy(to + r * tile.stride + j, &scores[r], sizeof(Quad));
  }
  for (; j < count; ++j) {  // the same key four times
    const EvenRows key{tile.keys.data + j * stride, 0};
    multiply_keys<Stored, Rows>(tile, q, key, prefetch_rows(prefetch, j, 1, key), scores, each_key);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) to[r * tile.stride + j] = scores[r][0];
  }
}

template <class Stored, std::size_t... Index>
ATTN_INLINE auto score_rows_function(std::int64_t rows, std::index_sequence<Index...>) {
  using Function = void (*)(const StoredScoresTile&, std::int64_t, const PrefetchRows&);
  static constexpr Function functions[] = {score_rows<Stored, static_cast<int>(Index) + 1>...};
  return functions[rows - 1];
}

/// Dequantizes after or before the product: a row's scale is common to all of its elements.
ATTN_INLINE void multiply_by_scales(const StoredRows& stored, float* row, std::int64_t stride,
                                    std::int64_t rows) {
  if (stored.scales == nullptr) return;
  for (std::int64_t r = 0; r < rows; ++r, row += stride) {
    if (stored.scale_stride == 1) {
      for (std::int64_t j = 0; j < stored.count; ++j) row[j] *= stored.scales[j];
    } else {
      for (std::int64_t j = 0; j < stored.count; ++j)
        row[j] *= stored.scales[j * stored.scale_stride];
    }
  }
}

template <class Stored>
void stored_scores(const StoredScoresTile& tile) {
  for (std::int64_t first = 0; first < tile.rows; first += score_rows_at_once) {
    const std::int64_t left = tile.rows - first;
    const std::int64_t rows = left < score_rows_at_once ? left : score_rows_at_once;
    const auto function =
        score_rows_function<Stored>(rows, std::make_index_sequence<score_rows_at_once>{});
    function(tile, first, first == 0 ? tile.prefetch : PrefetchRows{});
  }
  multiply_by_scales(tile.keys, tile.scores, tile.stride, tile.rows);
}

/// Adds the values [first, last) times their probabilities to the columns [n, n + Vectors * W). If
/// not WholeVectors, Vectors is 1, and only the columns up to the width are read.
template <class Stored, int Rows, int Vectors, bool WholeVectors>
void add_columns(const StoredValuesTile& tile, std::int64_t first, std::int64_t last,
                 std::int64_t n) {
  using Element = typename Stored::Element;
  constexpr auto size = static_cast<std::int64_t>(sizeof(Element));
  float* const out = tile.out + n;
  const std::int64_t rest = tile.values.width - n;
  Vector sums[Rows][Vectors];
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] =
        load(out + r * tile.out_stride + v * vector_width);
  }
  for (std::int64_t j = first; j < last; ++j) {
    const std::byte* const row = tile.values.data + j * tile.values.stride + n * size;
    const std::byte* const next_row =
        j < tile.prefetch.count ? tile.prefetch.data + j * tile.prefetch.stride + n * size : row;
    const auto* const value = reinterpret_cast<const Element*>(row);
    Vector x[Vectors];
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) {
      if (v * vector_width * size % line_size == 0)
        prefetch_line(next_row + v * vector_width * size);
      x[v] =
          WholeVectors ? Stored::load(value + v * vector_width) : load_first<Stored>(value, rest);
    }
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector p = broadcast(tile.probabilities[r * tile.stride + j]);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] = multiply_add(x[v], p, sums[r][v]);
    }
  }
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v)
        store(out + r * tile.out_stride + v * vector_width, sums[r][v]);
  }
}

template <class Stored, int Rows>
void add_chunk(const StoredValuesTile& tile, std::int64_t first, std::int64_t last) {
  const std::int64_t whole = round_down(tile.values.width);
  std::int64_t n = 0;
  for (; n + panel_width <= whole; n += panel_width)
    add_columns<Stored, Rows, panel_vectors, true>(tile, first, last, n);
  if constexpr (panel_vectors > 2) {
    if (n + 2 * vector_width <= whole) {
      add_columns<Stored, Rows, 2, true>(tile, first, last, n);
      n += 2 * vector_width;
    }
  }
  if (n < whole) {
    add_columns<Stored, Rows, 1, true>(tile, first, last, n);
    n += vector_width;
  }
  if (n < tile.values.width) add_columns<Stored, Rows, 1, false>(tile, first, last, n);
}

template <class Stored, std::size_t... Index>
ATTN_INLINE auto add_chunk_function(std::int64_t rows, std::index_sequence<Index...>) {
  using Function = void (*)(const StoredValuesTile&, std::int64_t, std::int64_t);
  static constexpr Function functions[] = {add_chunk<Stored, static_cast<int>(Index) + 1>...};
  return functions[rows - 1];
}

template <class Stored>
void stored_add_values(const StoredValuesTile& tile) {
  constexpr std::int64_t chunk = 16;  // so many values stay in L1 with all of their columns
  multiply_by_scales(tile.values, tile.probabilities, tile.stride, tile.rows);
  const auto function =
      add_chunk_function<Stored>(tile.rows, std::make_index_sequence<tile_rows>{});
  for (std::int64_t first = 0; first < tile.values.count; first += chunk) {
    const std::int64_t last = first + chunk < tile.values.count ? first + chunk : tile.values.count;
    function(tile, first, last);
  }
}

template <class Stored>
inline constexpr StoredArithmetic stored_arithmetic = {.scores = stored_scores<Stored>,
                                                       .scores_with_bf16_queries = nullptr,
                                                       .add_values = stored_add_values<Stored>,
                                                       .add_values_to_pairs = nullptr};

}  // namespace
}  // namespace attn::kernels
