// oneDNN's softmax and tanh over a whole matrix in memory, for the unfused baseline and to be
// timed.
#pragma once

#include <cstdint>

namespace attn::onednn {

/// A dense f32 matrix, row-major.
struct Matrix {
  float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Softmax over each row, to a matrix of the same shape or in place; -inf becomes 0. A row of
/// nothing but -inf, or with NaN or +inf in it, ends up with NaN in it. Throws Error(unsupported)
/// if oneDNN fails.
void softmax_rows(const Matrix& from, float* to, int num_threads);

/// tanh of each element, in place. Throws Error(unsupported) if oneDNN fails.
void tanh_elements(const Matrix& matrix, int num_threads);

}  // namespace attn::onednn
