// The inner loops of sparsemax and entmax: selection of elements above a bound, and sums and powers
// of the parts of elements above a threshold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/entmax.hpp"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

std::int64_t compress_above(const float* src, std::int64_t count, float shift, float bound,
                            float* dst) {
  std::int64_t n = 0, kept = 0;
  for (; n + vector_width <= count; n += vector_width) {
    const Vector v = load(src + n) - shift;
    kept += store_selected(dst + kept, v, v > bound);
  }
  for (; n < count; ++n) {
    const float v = src[n] - shift;
    dst[kept] = v;
    kept += v > bound;
  }
  return kept;
}

/// Equal to sum_of_halves, of which GCC 12 makes other instructions. This form is the one that was
/// measured.
template <std::size_t... Lane>
ATTN_INLINE Doubles converted_sum_of_halves(Vector v, std::index_sequence<Lane...>) {
  const HalfVector low = __builtin_shufflevector(v, v, static_cast<int>(Lane)...);
  const HalfVector high = __builtin_shufflevector(v, v, (static_cast<int>(Lane) + double_lanes)...);
  return __builtin_convertvector(low, Doubles) + __builtin_convertvector(high, Doubles);
}

/// The sums of each lane. They are in double: for many equal elements, sums in float would round in
/// the same direction each time.
struct LaneSumsAboveThreshold {
  Lanes count{};  // of elements, negative, as comparisons give -1
  Doubles sum{};
  Doubles sum_of_squares{};

  void add(Vector above, Vector squares) {
    constexpr auto half = std::make_index_sequence<double_lanes>{};
    sum += converted_sum_of_halves(above, half);
    sum_of_squares += converted_sum_of_halves(squares, half);
  }
};

ATTN_INLINE Vector above(Vector d, const Threshold& threshold) {
  return max((d - threshold.high) - threshold.low, Vector{});
}

SumsAboveThreshold sums_above_threshold(const float* d, std::int64_t count,
                                        const Threshold& threshold) {
  LaneSumsAboveThreshold lanes;
  std::int64_t n = 0;
  for (; n + 8 * vector_width <= count; n += 8 * vector_width) {
    // Added in pairs of pairs, so that sums of equal elements are exact.
    Vector sums[2], squares[2];
    ATTN_UNROLL for (int half = 0; half < 2; ++half) {
      Vector u[4];
      ATTN_UNROLL for (int v = 0; v < 4; ++v) {
        u[v] = above(load(d + n + (4 * half + v) * vector_width), threshold);
        lanes.count += u[v] > 0.f;
      }
      sums[half] = (u[0] + u[1]) + (u[2] + u[3]);
      squares[half] = multiply_add(u[0], u[0], u[1] * u[1]) + multiply_add(u[2], u[2], u[3] * u[3]);
    }
    lanes.add(sums[0] + sums[1], squares[0] + squares[1]);
  }
  for (; n + vector_width <= count; n += vector_width) {
    const Vector u = above(load(d + n), threshold);
    lanes.count += u > 0.f;
    lanes.add(u, u * u);
  }
  SumsAboveThreshold all{0, 0, 0};
  for (; n < count; ++n) {
    const float u = (d[n] - threshold.high) - threshold.low;
    if (!(u > 0)) continue;
    ++all.count;
    all.sum += u;
    all.sum_of_squares += static_cast<double>(u) * u;
  }
  for (int lane = 0; lane < vector_width; ++lane) all.count -= lanes.count[lane];
  for (int lane = 0; lane < double_lanes; ++lane) {
    all.sum += lanes.sum[lane];
    all.sum_of_squares += lanes.sum_of_squares[lane];
  }
  return all;
}

/// dst[n] = f(above(x[n] - shift)), vector by vector.
template <class F>
ATTN_INLINE void map_above(const float* x, std::int64_t count, float shift,
                           const Threshold& threshold, float* dst, F f) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width)
    store(dst + n, f(above(load(x + n) - shift, threshold)));
  for (; n < count; ++n) dst[n] = f(above(broadcast(x[n] - shift), threshold))[0];
}

void above_threshold(const float* x, std::int64_t count, float shift, const Threshold& threshold,
                     float* dst) {
  map_above(x, count, shift, threshold, dst, [](Vector u) ATTN_INLINE_LAMBDA { return u; });
}

void half_above_threshold_squared(const float* x, std::int64_t count, float shift,
                                  const Threshold& threshold, float* dst) {
  map_above(x, count, shift, threshold, dst,
            [](Vector u) ATTN_INLINE_LAMBDA { return (u * 0.5f) * (u * 0.5f); });
}

inline constexpr EntmaxKernels entmax_kernels = {
    .compress_above = compress_above,
    .sums_above_threshold = sums_above_threshold,
    .above_threshold = above_threshold,
    .half_above_threshold_squared = half_above_threshold_squared};

}  // namespace
}  // namespace attn::kernels
