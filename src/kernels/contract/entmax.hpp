// Sparsemax and entmax: elements above a threshold.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// A threshold of more digits than a float has: high + low. The part of d above it is
///
///   above(d) = max((d - high) - low, 0)
struct Threshold {
  float high;
  float low;
};

struct SumsAboveThreshold {
  std::int64_t count;  // of elements above the threshold
  double sum;
  double sum_of_squares;
};

struct EntmaxKernels {
  /// Writes those of src[n] - shift that are greater than `bound` to dst, in their order, and
  /// returns how many they are. dst has room for `count` floats and may be src; what it holds after
  /// the returned ones is not specified.
  std::int64_t (*compress_above)(const float* src, std::int64_t count, float shift, float bound,
                                 float* dst);
  /// Counts and sums above(d[n]). The elements are rounded to floats once or twice; the sums are as
  /// accurate as in double. May assume that d has no NaN.
  SumsAboveThreshold (*sums_above_threshold)(const float* d, std::int64_t count,
                                             const Threshold& threshold);
  /// dst[n] = above(x[n] - shift); dst may be x.
  void (*above_threshold)(const float* x, std::int64_t count, float shift,
                          const Threshold& threshold, float* dst);
  /// dst[n] = (above(x[n] - shift) / 2)^2; dst may be x.
  void (*half_above_threshold_squared)(const float* x, std::int64_t count, float shift,
                                       const Threshold& threshold, float* dst);
};

}  // namespace attn::kernels
