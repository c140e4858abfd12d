// oneDNN's matmul with a matrix of weights that was packed beforehand.
#pragma once

#include <attn/tensor.hpp>

#include <compare>
#include <cstdint>
#include <memory>

namespace attn::onednn {

/// Columns of a panel.
inline constexpr std::int64_t weight_panel_width = 64;
/// Words of depth that a panel's depth is a multiple of. A word is a float, or a pair of bf16 that
/// are neighbors in depth.
inline constexpr std::int64_t weight_depth_step = 16;

/// Y[m, n] = X[m, k] W[k, n] + bias[n], or += with `accumulate`. X and Y are dense; W lies in
/// panels of 64 columns, [n / 64][words of k][64], padded with 0 in both directions.
struct PackedMatmulShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType operands = DType::f32;  // of X and W: f32 or bf16
  DType result = DType::f32;    // of Y: f32 or bf16
  bool bias = false;
  bool accumulate = false;
  int num_threads = 1;

  friend auto operator<=>(const PackedMatmulShape&, const PackedMatmulShape&) = default;
};

/// For one execution at a time.
class PackedMatmul {
 public:
  /// Throws Error(unsupported) if oneDNN cannot make it.
  explicit PackedMatmul(const PackedMatmulShape& shape);
  PackedMatmul(PackedMatmul&&) noexcept;
  ~PackedMatmul();

  /// Whether oneDNN has a kernel for such panels on this processor, and not plain loops.
  static bool fast(const PackedMatmulShape& shape);

  void execute(const void* x, const float* w, const float* bias, void* y);

 private:
  struct Primitive;
  PackedMatmulShape shape_;
  std::unique_ptr<Primitive> primitive_;
};

}  // namespace attn::onednn
