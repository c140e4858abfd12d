// The matrix multiplication micro-kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/contract/packed.hpp"

namespace attn::kernels {

/// Rows whose cache lines a kernel prefetches one after another while it computes.
struct PrefetchWalk {
  const std::byte* row = nullptr;
  std::int64_t row_stride = 0;  // in bytes
  std::int64_t row_bytes = 0;
  std::int64_t rows = 0;    // that are left
  std::int64_t offset = 0;  // in bytes, of the next line within the row
  const PrefetchWalk* next = nullptr;
};

/// C[rows, columns] = A[rows, depth] B[depth, columns], or C += A B with `accumulate`.
///
///   A  [rows, depth]     packed elements, rows a_stride apart
///   B  [depth, columns]  packed elements in panels
///   C  [rows, columns]   f32, rows c_stride apart
///
/// May assume: 1 <= rows <= tile_rows, depth >= 0, C overlaps neither A nor B.
/// Reads and writes: columns are rounded up to a multiple of W in B and in C. Nothing else of B and
/// C is touched, and nothing of A outside [rows, depth].
/// Each element of C is summed in the order of k whatever the size of the tile.
///
/// The transposed form takes the rows of A^T [depth, rows], which are a_stride apart.
struct MatmulTile {
  const float* a;
  std::int64_t a_stride;
  Panels b;
  float* c;
  std::int64_t c_stride;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;
  bool accumulate;
  /// [rows, W] or null. Lane j % W of row r becomes the maximum of itself and C[r, j], for all
  /// columns after rounding up. NaN in C is ignored.
  float* maxima = nullptr;
  /// May be null. One line is prefetched in each step of depth while lines are left; the walk is
  /// advanced.
  PrefetchWalk* prefetch = nullptr;
};

}  // namespace attn::kernels
