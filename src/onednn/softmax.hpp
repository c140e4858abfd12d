// oneDNN's softmax and tanh of a whole matrix. The unfused baseline uses them, and attn_bench
// measures the softmax.
#pragma once

#include <cstdint>

namespace attn::onednn {

/// A dense, row-major f32 matrix.
struct Matrix {
  float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Softmax of each row. `to` has the same shape as `from`, and may be the same memory. An element
/// of -inf gives 0. A row that contains NaN or +inf, or only -inf, gets some NaN. Throws
/// Error(unsupported) if oneDNN fails.
void softmax_rows(const Matrix& from, float* to, int num_threads);

/// Replaces each element by its tanh. Throws Error(unsupported) if oneDNN fails.
void tanh_elements(const Matrix& matrix, int num_threads);

}  // namespace attn::onednn
