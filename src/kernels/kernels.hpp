// The table of kernels of an instruction set. A call selects its table once (select.hpp) and calls
// every kernel through it.
//
// The algorithms are in the .inl files, which are compiled once for each instruction set; the
// contract of each family is in its header below. Shared rules: strides and counts are in elements
// if not said otherwise, W is vector_width, and a kernel never allocates, throws, or knows about
// threads, heads or masks.
#pragma once

#include <cstdint>

#include "kernels/contract/convert.hpp"
#include "kernels/contract/entmax.hpp"
#include "kernels/contract/functional.hpp"
#include "kernels/contract/gradient.hpp"
#include "kernels/contract/matmul.hpp"
#include "kernels/contract/online_softmax.hpp"
#include "kernels/contract/pack.hpp"
#include "kernels/contract/packed.hpp"
#include "kernels/contract/rows.hpp"
#include "kernels/contract/stored_rows.hpp"
#include "kernels/contract/transforms.hpp"

namespace attn::kernels {

/// Multiplication in one operand type, and the kernels that write its operands. The pointers are
/// null for bf16 and i8 where the instruction set does not multiply packed pairs of bf16.
struct Arithmetic {
  std::int64_t vnni_factor;  // values in a packed element: 1 or 2
  std::int64_t chunk_keys;   // keys whose probabilities are made together; divides panel_width
  void (*matmul)(const MatmulTile& tile);
  void (*matmul_transposed)(const MatmulTile& tile);  // A is given as its transpose
  void (*online_softmax)(const SoftmaxTile& tile);
  /// Online softmax without P V: as softmax_rows, but with P as packed pairs, keys 2n and 2n + 1 in
  /// pairs[n], rows `stride` apart. They may take the place of scores of rows that come before, and
  /// of the row itself. Null for f32.
  void (*softmax_to_pairs)(const SoftmaxTile& tile, float* pairs, std::int64_t stride);
  PackFinite pack_finite;
  void (*pair_rows)(const PairedRows& tile);  // null for f32, whose elements are no pairs
};

struct VectorShape {
  std::int64_t vector_width;  // W, in floats
  std::int64_t panel_width;   // columns of a packed panel, a small multiple of W
};

struct PackedKernels {
  Arithmetic f32;
  Arithmetic bf16;
  Arithmetic i8;  // of keys and values that are integers in bf16, with a scale for each row
};

struct StoredKernels {
  StoredArithmetic stored_f32;
  StoredArithmetic stored_bf16;
  StoredArithmetic stored_f16;
  StoredArithmetic stored_i8;
  /// Online softmax without P V, for f32: scores become probabilities, and row_max, row_sum and out
  /// are rescaled as SoftmaxTile says. The values are not read.
  void (*softmax_rows)(const SoftmaxTile& tile);
};

struct RowFamily {
  RowKernels rows;
};

/// What the translation unit of an instruction set exports: the kernels of all families.
struct Kernels : VectorShape,
                 PackedKernels,
                 StoredKernels,
                 PackKernels,
                 RowFamily,
                 ScoreTransforms,
                 GradientKernels,
                 EntmaxKernels,
                 ConvertKernels,
                 FunctionalKernels {};

}  // namespace attn::kernels
