// Packing of K and V for the matrix multiplication.
#pragma once

#include <cstdint>

#include "kernels/contract/packed.hpp"

namespace attn::kernels {

/// The multiplication of bf16 takes subnormal operands as 0 and makes 0 of subnormal sums. Where V
/// has magnitudes below this, such losses could be seen in O.
inline constexpr float tiny_bf16 = 0x1p-100f;

/// Copies V[rows, columns], rows src_stride values apart, into panels of packed elements: of 1 row
/// each for f32, of 2 rows each for bf16. Values that are not finite become 0.
///
/// Writes: each row of packed elements in all panels; columns are padded with 0 to a multiple of W,
/// and an odd last row of bf16 is paired with 0. Reads nothing outside [rows, columns].
/// Returns whether all values were finite and, of bf16, none tiny.
using PackFinite = bool (*)(const void* src, std::int64_t src_stride, std::int64_t rows,
                            std::int64_t columns, float* dst, const PanelLayout& layout);

struct PackKernels {
  /// Transposes K: dst[k * dst_stride + n] = src[n * src_stride + k] for n < keys, k < depth, in
  /// packed elements of any kind, whose bits are copied as they are.
  /// Writes 0 for keys up to the next multiple of W. Reads nothing outside [keys, depth].
  void (*pack_transposed)(const float* src, std::int64_t src_stride, std::int64_t keys,
                          std::int64_t depth, float* dst, std::int64_t dst_stride);
  /// Whether none of the `count` floats is infinite or NaN.
  bool (*all_finite)(const float* src, std::int64_t count);
};

}  // namespace attn::kernels
