// Online softmax (Milakov and Gimelshein 2018): scores become probabilities and are multiplied with
// V.
#pragma once

#include <cstdint>

#include "kernels/contract/packed.hpp"

namespace attn::kernels {

/// One step over the columns (keys) [first, last). Row r sees the columns begin[r] <= j < end[r]:
///
///   row_max' = max(row_max, max s)
///   a        = exp2(scale * (row_max - row_max'))
///   P        = exp2(scale * (s - row_max')), or 0 for columns that the row does not see
///   row_sum' = a * row_sum + sum of P
///   out'     = a * out + P V
///
///   scores            [rows, last]                  f32, rows `stride` apart, indexed by column
///   values            [value_end - first, columns]  packed elements in panels; the first row is
///                                                   column `first`
///   out               [rows, columns]               f32, rows out_stride apart
///   row_max, row_sum  [rows]                        the identity is row_max = -inf, row_sum = 0,
///                                                   out = 0
///
/// May assume: 1 <= rows <= tile_rows; first and last are multiples of Arithmetic::chunk_keys (of W
/// for Kernels::softmax_rows) and enclose the range of each row; columns is a multiple of W; scale
/// > 0 includes the factor log2(e).
/// Writes: P takes the place of the scores, in all of [first, last). For bf16 P is rounded to
/// nearest even and stored as packed pairs, keys 2n and 2n + 1 in scores[n], which is from first /
/// 2 on; row_sum is the sum before rounding. Must not read scores outside [first, last), nor write
/// outside it otherwise.
/// Values that are not finite: a score of -inf gives P = 0; NaN and +inf make row_sum NaN.
struct SoftmaxTile {
  float* scores;
  std::int64_t stride;
  std::int64_t rows;
  const std::int64_t* begin;
  const std::int64_t* end;
  std::int64_t first;
  std::int64_t last;
  float scale;
  /// If not null: [rows, W], whose lanes hold the maxima of each row over [first, last). Then every
  /// row sees all of [first, last), and begin and end are not read. If null, the kernel finds the
  /// maxima.
  const float* maxima;
  float* row_max;
  float* row_sum;
  /// If not null: P is multiplied by value_scales[j] before it is rounded, row_sum sums it before.
  /// For bf16 alone, which may take null for 1; all of [first, last) is read.
  const float* value_scales = nullptr;
  Panels values;
  std::int64_t value_end;
  float* out;
  std::int64_t out_stride;
  std::int64_t columns;
};

}  // namespace attn::kernels
