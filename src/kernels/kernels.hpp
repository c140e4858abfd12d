// The kernels' contract. Each algorithm stands once, in an .inl file, and is compiled once per
// instruction set into a table of functions; a call picks its table once (select.cpp) and goes
// through it.
//
// Shared rules: strides and counts are in floats; W is vector_width. Nothing here allocates,
// throws, or knows about threads, heads or masks. Buffers that a kernel writes in whole vectors
// have room for that, as each function says.
#pragma once

#include <cstddef>
#include <cstdint>

namespace attn::kernels {

/// Rows of a register tile.
inline constexpr std::int64_t tile_rows = 6;
/// No instruction set here has vectors of more floats.
inline constexpr std::int64_t max_vector_width = 16;

// Operands of multiplications are counted in words of 32 bits: a float, or a pair of bf16 that are
// neighbors in depth, the earlier one in the lower half. Either way a word of A meets a word of B
// in one instruction and adds to a float of C.

/// How a matrix lies in panels of columns: element (k, n) at (n / panel_width) * panel_stride + k *
/// row_stride + n % panel_width.
struct PanelLayout {
  std::int64_t row_stride;
  std::int64_t panel_stride;
  std::int64_t panel_width;  // a multiple of W, at most Kernels::panel_width
};
struct Panels {
  const float* data;
  PanelLayout layout;
};

/// A walk over the cache lines of evenly spaced rows, and on to the next rows.
struct PrefetchWalk {
  const std::byte* row = nullptr;
  std::int64_t row_stride = 0;  // in bytes
  std::int64_t row_bytes = 0;
  std::int64_t rows = 0;    // left
  std::int64_t offset = 0;  // of the next line within the row
  const PrefetchWalk* next = nullptr;
};

/// C[rows, columns] = A[rows, depth] B[depth, columns], or += with `accumulate`. rows <= tile_rows;
/// columns is rounded up to a multiple of W in B and in C. Nothing need be aligned beyond a word.
struct MatmulTile {
  const float* a;  // floats or pairs
  std::int64_t a_stride;
  Panels b;
  float* c;
  std::int64_t c_stride;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;  // in words
  bool accumulate;
  /// If not null: [rows, W], each lane grows to the maximum of C's columns, rounded up, that fall
  /// on it; NaN is passed over.
  float* maxima = nullptr;
  /// If not null: lines to prefetch meanwhile, one in each step of depth as long as there are any.
  /// Moves on.
  PrefetchWalk* ahead = nullptr;
};

/// One step of online softmax: a tile of scores becomes weights P and adds its part to O (Milakov
/// and Gimelshein 2018). Row r sees the columns begin[r] <= j < end[r] of [first, last):
///
///   row_max' = max(row_max, max s);  a = exp2(scale * (row_max - row_max'))
///   P = exp2(scale * (s - row_max')), 0 for columns that the row does not see
///   row_sum' = a * row_sum + sum of P;  out' = a * out + P V
///
/// first and last are multiples of Arithmetic::chunk_keys and enclose every row's range; all of
/// that is written. V has a row for each column from `first` to value_end. The identity is row_max
/// = -inf, row_sum = 0, out = 0. scale > 0 has log2(e) in it. A score of -inf weighs nothing; NaN
/// and +inf make row_sum NaN. P takes the place of the scores. For bf16 it is rounded and lies as
/// words, keys 2n and 2n + 1 in scores[n]; row_sum is that of the unrounded weights.
struct SoftmaxTile {
  float* scores;
  std::int64_t stride;
  std::int64_t rows;  // at most tile_rows
  const std::int64_t* begin;
  const std::int64_t* end;
  std::int64_t first;
  std::int64_t last;
  float scale;
  /// If not null: [rows, W] with the maxima of all rows over [first, last), which every row sees.
  /// Else they are looked for.
  const float* maxima;
  float* row_max;
  float* row_sum;
  Panels values;  // from `first` on
  std::int64_t value_end;
  float* out;
  std::int64_t out_stride;
  std::int64_t columns;  // of V and O, a multiple of W
};

/// Multiplication in one operand type, and what writes its operands.
struct Arithmetic {
  std::int64_t vnni_factor;  // operands: 1 or 2
  std::int64_t chunk_keys;   // keys whose weights are made together; divides panel_width
  void (*matmul)(const MatmulTile& tile);
  void (*online_softmax)(const SoftmaxTile& tile);
  /// Copies rows of `columns` values of this type into panels, a word of depth being 1 or 2 rows;
  /// columns are padded with 0 up to a multiple of W, rows to a whole word. Values that are not
  /// finite become 0; returns whether all were finite.
  bool (*pack_finite)(const void* src, std::int64_t src_stride, std::int64_t rows,
                      std::int64_t columns, float* dst, const PanelLayout& layout);
};

// Keys and values as they lie, for few rows of queries: each is read once, nothing is packed.

/// Evenly spaced rows of `width` elements that lie side by side.
struct StoredRows {
  const std::byte* data;
  std::int64_t stride;  // in bytes
  std::int64_t count;
  std::int64_t width;
  const float* scales = nullptr;  // one for each row; null: 1
  std::int64_t scale_stride = 0;
};

/// Rows to prefetch meanwhile, one for each row that is read, as many bytes of it as of that.
struct PrefetchRows {
  const std::byte* data = nullptr;
  std::int64_t stride = 0;  // in bytes
  std::int64_t count = 0;
};

/// scores[r, j] = q[r, :] . keys[j, :]. q is floats or pairs of bf16, padded with 0 to whole
/// vectors; rows <= tile_rows. Exactly keys.count are written.
struct StoredScoresTile {
  const float* q;
  std::int64_t q_stride;
  std::int64_t rows;
  StoredRows keys;
  float* scores;
  std::int64_t stride;
  PrefetchRows ahead;
};

/// out[r, :] += sum_j weights[r, j] values[j, :]. out has whole vectors in each row; rows <=
/// tile_rows. Overwrites the weights.
struct StoredValuesTile {
  float* weights;
  std::int64_t stride;
  std::int64_t rows;
  StoredRows values;
  float* out;
  std::int64_t out_stride;
  PrefetchRows ahead;
};

/// For one element type. Elements are widened in registers; sums are f32.
struct StoredArithmetic {
  void (*scores)(const StoredScoresTile& tile);
  /// With q in pairs of bf16. Null where the instruction set does not multiply those, or the keys
  /// are not exact in bf16.
  void (*scores_of_bf16)(const StoredScoresTile& tile);
  void (*add_values)(const StoredValuesTile& tile);
};

/// A threshold finer than a float: high + low. An element's excess is its part above it, else 0.
struct Threshold {
  float high;
  float low;
};

struct ExcessSums {
  std::int64_t number;  // of elements that have an excess
  double sum;
  double squares;
};

/// dst = (src - center) * factor, in double and rounded to f32; then * scale and + bias where they
/// are not null. dst may be src.
struct NormalizedRow {
  const float* src;
  std::int64_t count;
  double center;
  double factor;
  const float* scale;
  const float* bias;
  float* dst;
};

// Rows of floats, from which a function of a whole row is made.

/// A factor as the sum of two floats; the first of them once more as two halves of 12 bits each,
/// whose products are exact.
struct SplitFloat {
  float high;
  float low;
  float upper;
  float lower;
};

/// The terms of a row's sum: e^((x - shift / shrink) / T) = 2^m * what the kernels make of x.
///
/// Near 0 (|greatest| <= 177 T) nothing is subtracted from x, so nothing is rounded: the greatest
/// element's share of the exponent is taken out as a power of two, 2^m. Far from 0 the difference
/// from a shift close to the greatest is exact where it matters.
struct ExpReduction {
  bool moved;    // if not, shift is 0, shrink and stretch are 1
  float shrink;  // a power of two for great T, as is stretch for small T, so that factor is in the
                 // middle of the range of floats
  float shift;   // of x * shrink
  float stretch;
  SplitFloat factor;   // log2(e) / (T * shrink * stretch)
  std::int32_t whole;  // m
  float bound;         // where (x * shrink - shift) * stretch is less, the term is 0
};

/// e^x
inline constexpr ExpReduction plain_exponential = {
    .moved = false,
    .shrink = 1,
    .shift = 0,
    .stretch = 1,
    .factor = {.high = 0x1.715476p+0f,
               .low = 0x1.4ae0cp-26f,
               .upper = 0x1.714p+0f,
               .lower = 0x1.476p-12f},
    .whole = 0,
    .bound = -87.336544f,
};

/// (x * shrink - shift) * stretch * factor - (high + low), as ExpReduction has it; factor is 1 / (T
/// * shrink * stretch).
struct LogTerms {
  bool moved;
  float shrink;
  float shift;
  float stretch;
  SplitFloat factor;
  float high;
  float low;
};

/// A row's gradient, to be taken through its function's values y.
struct RowGradient {
  const float* dy;
  const float* y;
  std::int64_t count;
  float sum;  // of dy y, or of dy
  float temperature;
};

/// Rows that a function takes in one call, at most: a row's steps wait for each other, and so stand
/// beside other rows'.
inline constexpr std::int64_t rows_at_once = 16;

/// Rows of `count` floats side by side, the first floats of neighboring rows `stride` apart.
struct FloatRows {
  const float* data;
  std::int64_t stride;
  std::int64_t rows;
  std::int64_t count;
};
/// Where as many rows are written.
struct FloatRowsOut {
  float* data;
  std::int64_t stride;
};

/// Sums are taken over blocks in a fixed order, free of a float's rounding within a block, and in
/// double over blocks. What is given as a pointer has one value for each row. What a row becomes
/// does not depend on the rows beside it.
struct RowKernels {
  /// -inf for no elements; NaN if there is one.
  float (*maximum)(const float* x, std::int64_t count);
  /// -inf for no elements; NaN is passed over.
  void (*maxima)(const FloatRows& x, float* maxima);
  /// The sums of rows' terms. terms may be null or x.
  void (*sum_terms)(const FloatRows& x, const ExpReduction* exponentials, const FloatRowsOut& terms,
                    double* sums);
  /// y = rows' terms, scaled; y may be x.
  void (*scale_terms)(const FloatRows& x, const ExpReduction* exponentials,
                      const SplitFloat* factors, const FloatRowsOut& y);
  /// y = x, scaled; y may be x.
  void (*scale)(const FloatRows& x, const SplitFloat* factors, const FloatRowsOut& y);
  void (*log_terms)(const FloatRows& x, const LogTerms* terms, const FloatRowsOut& y);

  /// Of x, and of the products of x and y; in double.
  double (*sum)(const float* x, std::int64_t count);
  double (*dot)(const float* x, const float* y, std::int64_t count);
  /// y (dy - sum) / temperature, and (dy - exp(y) sum) / temperature; dx may be dy or y.
  void (*softmax_gradient)(const RowGradient& gradient, float* dx);
  void (*log_softmax_gradient)(const RowGradient& gradient, float* dx);
};

/// What an instruction set's translation unit exports.
struct Kernels {
  std::int64_t vector_width;
  std::int64_t panel_width;  // columns of a packed panel, a small multiple of W

  Arithmetic f32;
  Arithmetic bf16;  // without matmul where the instruction set does not multiply bf16

  StoredArithmetic stored_f32, stored_bf16, stored_f16, stored_i8;
  /// Online softmax without its P V: scores become weights, f32. first and last are multiples of W.
  /// Values and out's columns are as in online_softmax, but only rescaled.
  void (*weigh)(const SoftmaxTile& tile);

  /// dst[k * dst_stride + n] = src[n * src_stride + k] for n < keys, k < depth; 0 for the keys up
  /// to the next multiple of W. Words of any kind; reads none outside the named ones.
  void (*pack_transposed)(const float* src, std::int64_t src_stride, std::int64_t keys,
                          std::int64_t depth, float* dst, std::int64_t dst_stride);

  bool (*all_finite)(const float* src, std::int64_t count);

  RowKernels rows;

  // Transforms of a run of scores, in place if not said otherwise. Each touches exactly `count`
  // floats.
  /// dst[n] = src[n] * factor; dst may be src.
  void (*scale)(const float* src, std::int64_t count, float factor, float* dst);
  void (*softcap)(float* scores, std::int64_t count, float cap);
  /// scores[n] = 1 / (1 + exp(-(scores[n] + bias))); NaN stays NaN, -inf becomes 0.
  void (*sigmoid)(float* scores, std::int64_t count, float bias);
  /// scores[n] -= slope * |distance - n|
  void (*alibi)(float* scores, std::int64_t count, float slope, std::int64_t distance);
  /// scores[n] += mask[n], and -inf where mask[n] is, whatever the score was.
  void (*add_mask)(float* scores, std::int64_t count, const float* mask);
  /// scores[n] = -inf where visible[n] is 0.
  void (*hide)(float* scores, std::int64_t count, const std::uint8_t* visible);

  // Sparsemax and entmax (kernels/entmax.inl).
  /// Those of src[n] - shift that are above the bound, in their order; returns how many. dst has
  /// room for `count` and may be src.
  std::int64_t (*compress_above)(const float* src, std::int64_t count, float shift, float bound,
                                 float* dst);
  /// Without NaN. Every excess is rounded once or twice to a float; sums are as in double.
  ExcessSums (*excess_sums)(const float* d, std::int64_t count, const Threshold& cut);
  /// dst[n] = u, or (u / 2)^2, with u the excess of x[n] - shift; dst may be x.
  void (*excesses)(const float* x, std::int64_t count, float shift, const Threshold& cut,
                   float* dst);
  void (*half_excesses_squared)(const float* x, std::int64_t count, float shift,
                                const Threshold& cut, float* dst);

  void (*widen_bf16)(const std::uint16_t* src, std::int64_t count, float* dst);
  void (*widen_f16)(const std::uint16_t* src, std::int64_t count, float* dst);
  void (*widen_i8)(const std::int8_t* src, std::int64_t count, float scale, float* dst);
  /// Round to nearest even; NaN stays NaN.
  void (*narrow_bf16)(const float* src, std::int64_t count, std::uint16_t* dst);
  void (*narrow_f16)(const float* src, std::int64_t count, std::uint16_t* dst);

  // Norms.
  /// The sum of (src[n] - center)^2, in double.
  double (*row_squares)(const float* src, std::int64_t count, double center);
  void (*normalize)(const NormalizedRow& row);

  // Rotations of pairs (x, y) in place: x cos - y sin and x sin + y cos.
  /// The pairs (first[n], second[n]).
  void (*rope_half)(float* first, float* second, const float* cos, const float* sin,
                    std::int64_t count);
  /// The pairs (row[2n], row[2n + 1]).
  void (*rope_interleaved)(float* row, const float* cos, const float* sin, std::int64_t count);

  // Activations. dst may be src.
  void (*silu)(const float* src, std::int64_t count, float* dst);
  /// dst = silu(gate) * up; dst may be either.
  void (*swiglu)(const float* gate, const float* up, std::int64_t count, float* dst);
  void (*gelu_erf)(const float* src, std::int64_t count, float* dst);
  void (*gelu_tanh)(const float* src, std::int64_t count, float* dst);
};

}  // namespace attn::kernels
