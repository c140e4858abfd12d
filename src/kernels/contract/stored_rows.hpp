// Few query rows against keys and values that are read in place, each once. Nothing is packed.
//
// Elements are f32, bf16, f16 or i8. They are widened to f32 in registers, and sums are f32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attn::kernels {

/// `count` rows of `width` contiguous elements, evenly spaced.
struct StoredRows {
  const std::byte* data;
  std::int64_t stride;  // in bytes
  std::int64_t count;
  std::int64_t width;
  const float* scales = nullptr;  // a row's elements are multiplied by scales[row * scale_stride];
                                  // null: by 1
  std::int64_t scale_stride = 0;
};

/// Rows that are prefetched meanwhile, one for each row that is read, and as many bytes of it.
struct PrefetchRows {
  const std::byte* data = nullptr;
  std::int64_t stride = 0;  // in bytes
  std::int64_t count = 0;
};

/// scores[r, j] = sum_d q[r, d] keys[j, d].
///
///   q       [rows, width] f32, or packed pairs of bf16, rows q_stride floats apart; padded with 0
///           to whole vectors. Against i8, a vector of pairs holds the elements (n, n + W) of 2 W
///   keys    [count, width]
///   scores  [rows, count] f32, rows `stride` floats apart
///
/// May assume: 1 <= rows <= tile_rows.
/// Writes exactly [rows, count] and reads no element of keys outside [count, width].
struct StoredScoresTile {
  const float* q;
  std::int64_t q_stride;
  std::int64_t rows;
  StoredRows keys;
  float* scores;
  std::int64_t stride;
  PrefetchRows prefetch;
};

/// out[r, d] += sum_j probabilities[r, j] values[j, d].
///
///   probabilities  [rows, count] f32, rows `stride` floats apart; or packed pairs of bf16, which
///                  were multiplied by the scales already. If begins_odd, the first value meets the
///                  second half of the first pair, whose first half is not read
///   values         [count, width]
///   out            [rows, width rounded up to a multiple of W] f32, rows out_stride floats apart
///
/// May assume: 1 <= rows <= tile_rows.
/// Overwrites the probabilities where values have scales. Reads no element of values outside
/// [count, width].
struct StoredValuesTile {
  float* probabilities;
  std::int64_t stride;
  std::int64_t rows;
  StoredRows values;
  float* out;
  std::int64_t out_stride;
  PrefetchRows prefetch;
  bool begins_odd = false;
};

/// The two products for one element type.
struct StoredArithmetic {
  void (*scores)(const StoredScoresTile& tile);
  /// With q in packed pairs of bf16. Null where the instruction set does not multiply those, or
  /// where the keys are not exact in bf16.
  void (*scores_with_bf16_queries)(const StoredScoresTile& tile);
  void (*add_values)(const StoredValuesTile& tile);
  /// With probabilities in packed pairs of bf16. Null where the instruction set does not multiply
  /// those, and for other types than i8: of bf16 it would take subnormal values as 0.
  void (*add_values_to_pairs)(const StoredValuesTile& tile);
};

}  // namespace attn::kernels
