// The elementwise part of the backward pass: probabilities and the gradients of scores, a tile of
// rows at a time.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// Up to tile_rows rows of scores S and of dP = dO V^T. Row r sees the columns (keys) begin[r] <= j
/// < end[r]; a score of -inf hides one more. Visible columns become
///
///   scores[r, j]     P
///   gradients[r, j]  dS
///
/// and the others become 0 in both, whatever they held.
///
/// May assume: first and last are multiples of W and enclose the range of each row. Reads and
/// writes: columns [first, last) of both.
struct GradientTile {
  float* scores;
  float* gradients;
  std::int64_t stride;  // of both
  std::int64_t rows;
  const std::int64_t* begin;
  const std::int64_t* end;
  std::int64_t first;
  std::int64_t last;
};

/// Several arrays, `stride` floats apart.
struct Copies {
  const float* first;
  std::int64_t stride;
  std::int64_t number;
};

/// What the rows of a tile are made of, [rows] each.
struct SoftmaxRowGradient {
  const float* base;
  const float* shift;
  const float* mean;
};

struct GradientKernels {
  /// P = exp2(scale * (S - base[r]) - shift[r]), dS = P (dP - mean[r]). scale includes the factor
  /// log2(e); base and shift make up lse: scale * base + shift is lse in the log2 domain. Where
  /// that is NaN, so is the row.
  void (*softmax_gradient)(const GradientTile& tile, float scale, const SoftmaxRowGradient& rows);
  /// P = 1 / (1 + exp(-(S + shift[r]))), dS = P (1 - P) dP.
  void (*sigmoid_gradient)(const GradientTile& tile, const float* shift);
  /// gradient[n] *= 1 - (capped[n] / cap)^2, the derivative of softcap in terms of its result. A
  /// gradient of 0 stays 0, whatever capped[n] is.
  void (*softcap_gradient)(const float* capped, std::int64_t count, float cap, float* gradient);
  /// Adds |distance - n| x[n] to the sum, one after the other, where distance is the query's
  /// position minus that of the first key.
  double (*distance_sum)(const float* x, std::int64_t count, std::int64_t distance, double sum);
  /// to[n] = factor * (sum of the copies of x[n]), which are added up in their order.
  void (*sum_copies)(const Copies& x, std::int64_t count, float factor, float* to);
};

/// Rows r and r + 1 of a tile as the operand of a product whose depth are the rows: packed pairs of
/// bf16, rounded to nearest even, pairs[r / 2, j] = (x[r, j], x[r + 1, j]). A last row without a
/// neighbor is paired with 0. Columns [0, columns), a multiple of 2 W.
struct PairedRows {
  const float* x;
  std::int64_t stride;  // of both
  std::int64_t rows;
  std::int64_t columns;
  float* pairs;
  /// If not null: the rows by themselves as well, with pairs along columns, which may be x.
  float* rounded;
};

}  // namespace attn::kernels
