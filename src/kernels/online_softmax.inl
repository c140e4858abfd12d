// Online softmax: a tile of scores becomes probabilities P, and P V is added to O. The scores are
// in L1, so reading them twice (maximum, then exponential) causes no traffic to other caches.
//
// The exponentials are interleaved with the multiply-adds of P V: between the steps of depth that
// consume one chunk of probabilities, the next chunk is made, one row at a time. Multiply-adds keep
// two ports of the processor busy, and an exponential needs mostly the others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/online_softmax.hpp"
#include "kernels/exp.inl"
#include "kernels/lanes.inl"
#include "kernels/matmul.inl"

namespace attn::kernels {
namespace {

/// Packed elements of depth whose probabilities are made together for each row. A row's turn comes
/// every `steps_between` steps of depth.
inline constexpr int chunk_depth = vector_width > 8 ? vector_width : 8;
inline constexpr int steps_between = chunk_depth / 8;
static_assert(tile_rows * steps_between <= chunk_depth);

/// begin and end are multiples of W.
ATTN_INLINE void fill(float* row, std::int64_t begin, std::int64_t end, float value) {
  for (std::int64_t j = begin; j < end; j += vector_width) store(row + j, broadcast(value));
}

/// Writes -inf outside begin <= j < end in the vector of columns from j on.
ATTN_INLINE void hide_lanes(float* row, std::int64_t j, std::int64_t begin, std::int64_t end) {
  const Lanes column = lane_numbers + static_cast<std::int32_t>(j);
  const Lanes visible =
      (column >= static_cast<std::int32_t>(begin)) & (column < static_cast<std::int32_t>(end));
  store(row + j, select(visible, load(row + j), broadcast(minus_infinity)));
}

/// Writes -inf outside begin <= j < end in the columns [first, last), which are multiples of W. It
/// stores whole vectors, as they are read next: a load cannot be forwarded from several smaller
/// stores.
ATTN_INLINE void hide_outside(float* row, std::int64_t first, std::int64_t last, std::int64_t begin,
                              std::int64_t end) {
  const std::int64_t inner_begin = round_up(begin), inner_end = round_down(end);
  fill(row, first, round_down(begin), minus_infinity);
  if (begin < inner_begin) hide_lanes(row, round_down(begin), begin, end);
  if (inner_end < end) hide_lanes(row, inner_end, begin, end);
  fill(row, round_up(end), last, minus_infinity);
}

/// begin and end are multiples of W.
ATTN_INLINE float row_maximum(const float* row, std::int64_t begin, std::int64_t end) {
  constexpr int unroll = 4;  // independent accumulators hide the latency of max
  Vector maxima[unroll];
  for (Vector& m : maxima) m = broadcast(minus_infinity);
  std::int64_t j = begin;
  for (; j + unroll * vector_width <= end; j += unroll * vector_width) {
    for (int u = 0; u < unroll; ++u) maxima[u] = max(load(row + j + u * vector_width), maxima[u]);
  }
  for (; j < end; j += vector_width) maxima[0] = max(load(row + j), maxima[0]);
  return max_of_lanes(max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3])));
}

/// The maximum of the row within its visible range. Scores outside become -inf.
ATTN_INLINE float maximum_in_range(const SoftmaxTile& tile, std::int64_t r) {
  if (tile.maxima != nullptr) return max_of_lanes(load(tile.maxima + r * vector_width));
  float* const row = tile.scores + r * tile.stride;
  const std::int64_t begin = tile.begin[r], end = tile.end[r];
  if (begin >= end) {
    fill(row, tile.first, tile.last, minus_infinity);
    return minus_infinity;
  }
  hide_outside(row, tile.first, tile.last, begin, end);
  return row_maximum(row, round_down(begin), round_up(end));
}

/// Makes new_max the row's maximum and rescales row_sum and out to it.
ATTN_INLINE void rescale(const SoftmaxTile& tile, std::int64_t r, float new_max) {
  const float old_max = tile.row_max[r];
  if (new_max == old_max) return;
  tile.row_max[r] = new_max;
  if (old_max == minus_infinity) return;  // nothing has been summed yet
  const float factor = exp2_nonpositive(broadcast((old_max - new_max) * tile.scale))[0];
  tile.row_sum[r] *= factor;
  float* out = tile.out + r * tile.out_stride;
  for (std::int64_t n = 0; n < tile.columns; n += vector_width)
    store(out + n, load(out + n) * factor);
}

/// What is subtracted from the row's scores: the maximum, or 0 where that is -inf, as -inf - -inf
/// would be NaN.
ATTN_INLINE float shift_of(const SoftmaxTile& tile, std::int64_t r) {
  return tile.row_max[r] == minus_infinity ? 0.f : tile.row_max[r];
}

/// How a chunk of scores becomes probabilities in place, as f32.
struct F32Probabilities {
  using Operand = F32;
  static constexpr int vnni_factor = 1;
  /// Replaces each vector s of the chunk at j by exponential(s); returns the sum of the new ones.
  template <class Exponential>
  static ATTN_INLINE Vector make(float* row, std::int64_t j, const float*,
                                 Exponential exponential) {
    Vector p[chunk_depth / vector_width];
    ATTN_UNROLL for (int v = 0; v < chunk_depth / vector_width; ++v) {
      p[v] = exponential(load(row + j + v * vector_width));
      store(row + j + v * vector_width, p[v]);
    }
    ATTN_UNROLL for (int v = 1; v < chunk_depth / vector_width; ++v) p[0] += p[v];
    return p[0];
  }
};

/// Makes all probabilities, exp2((s - shift) * scale), and adds P V for the first panel of V, which
/// has a row for each of the first `depth` packed elements. As the shift is subtracted first, the
/// greatest score's probability is exactly 2^0 however large the score is.
template <class Probabilities, int Rows, int Vectors>
void exponentiate_and_multiply(const SoftmaxTile& tile, std::int64_t depth) {
  constexpr std::int64_t chunk_keys = chunk_depth * Probabilities::vnni_factor;
  float* const scores = tile.scores;
  const std::int64_t stride = tile.stride, last = tile.last;
  const float scale = tile.scale;
  float shifts[Rows];
  Vector row_sums[Rows];
  for (int r = 0; r < Rows; ++r) {
    shifts[r] =
        tile.row_max[r] == minus_infinity ? 0.f : tile.row_max[r];  // -inf - -inf would be NaN
    row_sums[r] = Vector{};
  }
  const auto make_chunk = [&](int r, std::int64_t j) ATTN_INLINE_LAMBDA {
    const float shift = shifts[r];
    const auto exponential = [=](Vector s) ATTN_INLINE_LAMBDA {
      return exp2_nonpositive((s - shift) * scale);
    };
    row_sums[r] += Probabilities::make(scores + r * stride, j, tile.value_scales, exponential);
  };

  std::int64_t next = tile.first;
  for (int r = 0; r < Rows; ++r) make_chunk(r, next);
  Accumulators<typename Probabilities::Operand, Rows, Vectors> sums(
      {scores + tile.first / Probabilities::vnni_factor, stride, tile.values.data,
       tile.values.layout.row_stride});
  sums.load_from(tile.out, tile.out_stride);
  for (next += chunk_keys; next < last; next += chunk_keys, depth -= chunk_depth) {
    ATTN_NO_UNROLL for (int r = 0; r < Rows; ++r) {
      make_chunk(r, next);
      ATTN_UNROLL for (int step = 0; step < steps_between; ++step) sums.step();
    }
    ATTN_NO_UNROLL for (int step = Rows * steps_between; step < chunk_depth; ++step) sums.step();
  }
  ATTN_NO_UNROLL for (; depth > 0; --depth) sums.step();
  sums.store_to(tile.out, tile.out_stride);
  for (int r = 0; r < Rows; ++r) tile.row_sum[r] += sum_of_lanes(row_sums[r]);
}

template <class Probabilities, std::size_t... Index>
ATTN_INLINE auto exponentiate_and_multiply_function(std::int64_t rows, std::int64_t vectors,
                                                    std::index_sequence<Index...>) {
  using Function = void (*)(const SoftmaxTile&, std::int64_t);
  static constexpr Function functions[] = {
      exponentiate_and_multiply<Probabilities, static_cast<int>(Index) / panel_vectors + 1,
                                static_cast<int>(Index) % panel_vectors + 1>...};
  return functions[(rows - 1) * panel_vectors + vectors - 1];
}

template <class Probabilities>
void online_softmax(const SoftmaxTile& tile) {
  constexpr int vnni_factor = Probabilities::vnni_factor;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float maximum = maximum_in_range(tile, r);
    rescale(tile, r, maximum > tile.row_max[r] ? maximum : tile.row_max[r]);
  }
  const std::int64_t depth =
      (tile.value_end + vnni_factor - 1) / vnni_factor - tile.first / vnni_factor;
  const std::int64_t first_columns =
      tile.columns < tile.values.layout.panel_width ? tile.columns : tile.values.layout.panel_width;
  exponentiate_and_multiply_function<Probabilities>(tile.rows, first_columns / vector_width,
                                                    tile_indices)(tile, depth);
  if (first_columns == tile.columns) return;
  matmul<typename Probabilities::Operand>({
      .a = tile.scores + tile.first / vnni_factor,
      .a_stride = tile.stride,
      .b = {tile.values.data + tile.values.layout.panel_stride, tile.values.layout},
      .c = tile.out + first_columns,
      .c_stride = tile.out_stride,
      .rows = tile.rows,
      .columns = tile.columns - first_columns,
      .depth = depth,
      .accumulate = true,
  });
}

/// The online softmax without P V. make(r, row, j, exponential) writes the probabilities of
/// `step` columns from j on and returns their sums.
template <class Make>
ATTN_INLINE void softmax_rows_with(const SoftmaxTile& tile, std::int64_t step, Make make) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float maximum = maximum_in_range(tile, r);
    rescale(tile, r, maximum > tile.row_max[r] ? maximum : tile.row_max[r]);
    const float shift =
        tile.row_max[r] == minus_infinity ? 0.f : tile.row_max[r];  // -inf - -inf would be NaN
    const auto exponential = [&](Vector s) ATTN_INLINE_LAMBDA {
      return exp2_nonpositive((s - shift) * tile.scale);
    };
    float* const row = tile.scores + r * tile.stride;
    Vector sum{};
    for (std::int64_t j = tile.first; j < tile.last; j += step) sum += make(r, row, j, exponential);
    tile.row_sum[r] += sum_of_lanes(sum);
  }
}

void softmax_rows(const SoftmaxTile& tile) {
  softmax_rows_with(tile, vector_width,
                    [](std::int64_t, float* row, std::int64_t j, auto exponential)
                        ATTN_INLINE_LAMBDA {
                          const Vector p = exponential(load(row + j));
                          store(row + j, p);
                          return p;
                        });
}

}  // namespace
}  // namespace attn::kernels
