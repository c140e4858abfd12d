// Rows of floats: maxima, sums of exponentials and their elementwise use, from which softmax,
// log-softmax, logsumexp and their gradients are made.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// A factor as the sum of two floats, high + low. high is stored again as high_leading, its leading
/// 12 bits, and high_trailing, the remaining bits: products of such halves are exact in f32.
struct SplitFloat {
  float high;
  float low;
  float high_leading;
  float high_trailing;
};

/// The terms of a row's sum:
///
///   term(x) = exp(v / (T * pre_scale * post_scale)) / 2^exponent,
///   v       = (x * pre_scale - shift) * post_scale
///
/// so that e^((x - shift / pre_scale) / T) = 2^exponent * term(x).
///
/// If the exponents of a row are near 0 (|greatest x| <= 177 T) nothing is subtracted from x, and
/// so nothing is rounded: the greatest element's share is taken out as a power of two. If they are
/// far from 0, a shift close to the greatest x is subtracted, which is exact where it matters.
struct ExpReduction {
  bool has_shift;         // if false, shift is 0, and pre_scale and post_scale are 1
  float pre_scale;        // a power of two below 1 for a large T, else 1
  float shift;            // of x * pre_scale
  float post_scale;       // a power of two above 1 for a small T, else 1
  SplitFloat factor;      // log2(e) / (T * pre_scale * post_scale), in the middle of f32's range
  std::int32_t exponent;  // of the power of two that is taken out
  float zero_below;       // where v is less, the term is 0
};

/// e^x
inline constexpr ExpReduction plain_exponential = {
    .has_shift = false,
    .pre_scale = 1,
    .shift = 0,
    .post_scale = 1,
    .factor = {.high = 0x1.715476p+0f,
               .low = 0x1.4ae0cp-26f,
               .high_leading = 0x1.714p+0f,
               .high_trailing = 0x1.476p-12f},
    .exponent = 0,
    .zero_below = -87.336544f,
};

/// (x * pre_scale - shift) * post_scale * factor - (log_sum_high + log_sum_low), with the first
/// members as in ExpReduction and factor = 1 / (T * pre_scale * post_scale).
struct LogTerms {
  bool has_shift;
  float pre_scale;
  float shift;
  float post_scale;
  SplitFloat factor;
  float log_sum_high;
  float log_sum_low;
};

/// The gradient of a row's function, to be propagated through the function's values y.
struct RowGradient {
  const float* dy;
  const float* y;
  std::int64_t count;
  float sum;  // of dy y for softmax, of dy for log-softmax
  float temperature;
};

/// The most rows that a kernel takes in one call. The last steps of a row depend on each other, so
/// they are done for all rows together.
inline constexpr std::int64_t rows_at_once = 16;

/// `rows` rows of `count` contiguous floats, `stride` floats apart.
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

/// Sums are taken over blocks in a fixed order: within a block without the rounding of f32, over
/// blocks in double. A pointer argument has one element for each row. The result of a row does not
/// depend on the rows beside it. Each kernel reads and writes exactly `count` floats of each row.
struct RowKernels {
  /// -inf for no elements; NaN if there is one.
  float (*maximum)(const float* x, std::int64_t count);
  /// -inf for no elements; NaN is ignored.
  void (*maxima)(const FloatRows& x, float* maxima);
  /// sums[r] = sum_n term(x[r, n]). The terms are stored unless terms.data is null; it may be x.
  void (*sum_terms)(const FloatRows& x, const ExpReduction* exponentials, const FloatRowsOut& terms,
                    double* sums);
  /// y[r, n] = term(x[r, n]) * factors[r]; y may be x.
  void (*scale_terms)(const FloatRows& x, const ExpReduction* exponentials,
                      const SplitFloat* factors, const FloatRowsOut& y);
  /// y[r, n] = x[r, n] * factors[r]; y may be x.
  void (*scale)(const FloatRows& x, const SplitFloat* factors, const FloatRowsOut& y);
  /// y[r, n] as LogTerms says; y may be x.
  void (*log_terms)(const FloatRows& x, const LogTerms* terms, const FloatRowsOut& y);

  /// sum_n x[n] and sum_n x[n] y[n], in double.
  double (*sum)(const float* x, std::int64_t count);
  double (*dot)(const float* x, const float* y, std::int64_t count);
  /// sums[n] += factor x[n], in double: a product, then a sum, each rounded.
  void (*add_scaled)(const float* x, std::int64_t count, double factor, double* sums);
  /// dx = y (dy - sum) / temperature; dx may be dy or y.
  void (*softmax_gradient)(const RowGradient& gradient, float* dx);
  /// dx = (dy - exp(y) sum) / temperature; dx may be dy or y.
  void (*log_softmax_gradient)(const RowGradient& gradient, float* dx);
};

}  // namespace attn::kernels
