// Packing: K is transposed into panels, so that the keys of a tile are contiguous, and V is cut
// into panels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/pack.hpp"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

template <bool Upper, std::size_t... Lane>
ATTN_INLINE Vector interleave(Vector a, Vector b, std::index_sequence<Lane...>) {
  constexpr int from = Upper ? vector_width / 2 : 0;
  return __builtin_shufflevector(
      a, b, (from + static_cast<int>(Lane) / 2 + (Lane % 2 ? vector_width : 0))...);
}

/// Transposes W x W in registers: log2(W) rounds of a perfect shuffle.
ATTN_INLINE void transpose(Vector (&rows)[vector_width]) {
  constexpr auto lanes = std::make_index_sequence<vector_width>{};
  for (int round = 1; round < vector_width; round *= 2) {
    Vector shuffled[vector_width];
    for (int i = 0; i < vector_width / 2; ++i) {
      shuffled[2 * i] = interleave<false>(rows[i], rows[i + vector_width / 2], lanes);
      shuffled[2 * i + 1] = interleave<true>(rows[i], rows[i + vector_width / 2], lanes);
    }
    for (int i = 0; i < vector_width; ++i) rows[i] = shuffled[i];
  }
}

ATTN_INLINE void pack_transposed_edge(const PackedElement* src, std::int64_t src_stride,
                                      std::int64_t keys, std::int64_t depth, PackedElement* dst,
                                      std::int64_t dst_stride) {
  for (std::int64_t k = 0; k < depth; ++k) {
    for (std::int64_t n = 0; n < vector_width; ++n)
      dst[k * dst_stride + n] = n < keys ? src[n * src_stride + k] : 0.f;
  }
}

void pack_transposed(const float* src, std::int64_t src_stride, std::int64_t keys,
                     std::int64_t depth, float* dst, std::int64_t dst_stride) {
  const std::int64_t whole_depth = round_down(depth);
  for (std::int64_t first = 0; first < keys;
       first += vector_width, src += vector_width * src_stride, dst += vector_width) {
    if (keys - first < vector_width) {
      pack_transposed_edge(src, src_stride, keys - first, depth, dst, dst_stride);
      continue;
    }
    for (std::int64_t k = 0; k < whole_depth; k += vector_width) {
      Vector rows[vector_width];
      for (int n = 0; n < vector_width; ++n) {
        rows[n] = load(src + n * src_stride + k);
        // W streams at once are too many for the hardware's prefetcher.
        __builtin_prefetch(src + (n + vector_width) * src_stride + k);
      }
      transpose(rows);
      for (int n = 0; n < vector_width; ++n) store(dst + (k + n) * dst_stride, rows[n]);
    }
    pack_transposed_edge(src + whole_depth, src_stride, vector_width, depth - whole_depth,
                         dst + whole_depth * dst_stride, dst_stride);
  }
}

/// -1 in the lanes where v is finite: the exponent of an infinity or NaN is all ones.
ATTN_INLINE Lanes is_finite(Vector v) { return (bits_of(v) & 0x7f800000u) != 0x7f800000u; }

ATTN_INLINE bool in_all_lanes(Lanes holds) {
  for (int lane = 0; lane < vector_width; ++lane) {
    if (holds[lane] == 0) return false;
  }
  return true;
}

/// Packs one row; returns the lanes in which all values were finite.
ATTN_INLINE Lanes pack_finite_row(const float* src, std::int64_t columns, float* dst,
                                  const PanelLayout& layout) {
  Lanes finite = Vector{} == Vector{};
  std::int64_t column = 0;  // within the panel
  const auto append = [&](Vector v) {
    const Lanes kept = is_finite(v);
    finite &= kept;
    store(dst + column, from_bits(bits_of(v) & reinterpret_cast<Bits>(kept)));
    column += vector_width;
    if (column == layout.panel_width) {
      column = 0;
      dst += layout.panel_stride;
    }
  };
  const std::int64_t whole = round_down(columns);
  for (std::int64_t n = 0; n < whole; n += vector_width) append(load(src + n));
  if (whole < columns) {
    Vector rest{};
    for (std::int64_t n = whole; n < columns; ++n) rest[n - whole] = src[n];
    append(rest);
  }
  return finite;
}

bool pack_finite_f32(const void* src, std::int64_t src_stride, std::int64_t rows,
                     std::int64_t columns, float* dst, const PanelLayout& layout) {
  const auto* values = static_cast<const float*>(src);
  Lanes finite = Vector{} == Vector{};
  for (std::int64_t r = 0; r < rows; ++r) {
    finite &=
        pack_finite_row(values + r * src_stride, columns, dst + r * layout.row_stride, layout);
  }
  return in_all_lanes(finite);
}

bool all_finite(const float* src, std::int64_t count) {
  constexpr int unroll = 4;  // independent maxima hide the latency of each
  const auto magnitude = [](Vector v) { return bits_of(v) & 0x7fffffffu; };
  Bits greatest[unroll] = {};
  const auto include = [&](int u, Vector v) ATTN_INLINE_LAMBDA {
    const Bits m = magnitude(v);
    greatest[u] = m > greatest[u] ? m : greatest[u];
  };
  std::int64_t n = 0;
  for (; n + unroll * vector_width <= count; n += unroll * vector_width) {
    ATTN_UNROLL for (int u = 0; u < unroll; ++u) include(u, load(src + n + u * vector_width));
  }
  for (; n + vector_width <= count; n += vector_width) include(0, load(src + n));
  for (; n < count; ++n) include(0, broadcast(src[n]));
  for (int u = 1; u < unroll; ++u)
    greatest[0] = greatest[u] > greatest[0] ? greatest[u] : greatest[0];
  return in_all_lanes(greatest[0] < 0x7f800000u);
}

inline constexpr PackKernels pack_kernels = {.pack_transposed = pack_transposed,
                                             .all_finite = all_finite};

}  // namespace
}  // namespace attn::kernels
