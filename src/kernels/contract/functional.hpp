// Norms, rotary position embedding and activations of dense rows. Each reads and writes exactly
// `count` elements of each array.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// dst = (src - center) * factor, computed in double and rounded to f32; then * scale and + bias
/// where they are not null. dst may be src.
struct NormalizedRow {
  const float* src;
  std::int64_t count;
  double center;
  double factor;
  const float* scale;
  const float* bias;
  float* dst;
};

struct FunctionalKernels {
  /// The sum of (src[n] - center)^2, in double.
  double (*row_squares)(const float* src, std::int64_t count, double center);
  void (*normalize)(const NormalizedRow& row);

  // Rotary position embedding (Su et al. 2021) rotates pairs (x, y) in place to
  // (x cos - y sin, x sin + y cos).
  /// Pair n is (first[n], second[n]).
  void (*rope_half)(float* first, float* second, const float* cos, const float* sin,
                    std::int64_t count);
  /// Pair n is (row[2n], row[2n + 1]), for n < count.
  void (*rope_interleaved)(float* row, const float* cos, const float* sin, std::int64_t count);

  // GELU and SiLU. dst may be src.
  /// x / (1 + exp(-x))
  void (*silu)(const float* src, std::int64_t count, float* dst);
  /// dst = silu(gate) * up; dst may be either.
  void (*swiglu)(const float* gate, const float* up, std::int64_t count, float* dst);
  /// x Phi(x), with the normal distribution Phi.
  void (*gelu_erf)(const float* src, std::int64_t count, float* dst);
  /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  void (*gelu_tanh)(const float* src, std::int64_t count, float* dst);
};

}  // namespace attn::kernels
