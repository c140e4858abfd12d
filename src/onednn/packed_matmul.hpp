// oneDNN's matmul with a weight matrix that was packed beforehand.
#pragma once

#include <attn/tensor.hpp>

#include <compare>
#include <cstdint>
#include <memory>

namespace attn::onednn {

/// Number of columns of a panel of packed weights.
inline constexpr std::int64_t weight_panel_width = 64;
/// The depth of a panel is a multiple of this number. It counts 32-bit units: one f32, or a packed
/// pair of bf16 that are neighbors in depth (the VNNI layout).
inline constexpr std::int64_t weight_depth_step = 16;
/// The same in elements.
constexpr std::int64_t panel_depth_step(DType operands) noexcept {
  return operands == DType::bf16 ? 2 * weight_depth_step : weight_depth_step;
}

/// Y[m, n] = X[m, k] W[k, n] + bias[n], or Y += with `accumulate`. X and Y are dense. W is packed
/// into panels of 64 columns, [n / 64][32-bit units of k][64], and padded with 0 in both dims.
struct PackedMatmulShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType operands = DType::f32;  // type of X and W: f32 or bf16
  DType result = DType::f32;    // type of Y: f32 or bf16
  bool bias = false;
  bool accumulate = false;
  int num_threads = 1;  // at most so many

  friend auto operator<=>(const PackedMatmulShape&, const PackedMatmulShape&) = default;
};

/// A compiled matmul with its scratch memory. Only one thread may execute it at a time. The number
/// of threads does not change its results.
class PackedMatmul {
 public:
  /// Throws Error(unsupported) if oneDNN cannot make it.
  explicit PackedMatmul(const PackedMatmulShape& shape);
  PackedMatmul(PackedMatmul&&) noexcept;
  ~PackedMatmul();

  /// Whether oneDNN has a compiled kernel for such panels on this processor; otherwise it runs
  /// plain loops, or cannot make the matmul at all. False in a build without oneDNN.
  static bool fast(const PackedMatmulShape& shape);

  /// Computes Y. `bias` is ignored if the shape has none. Compiles the matmul again if OpenMP does
  /// not grant the number of threads that it was compiled for. Throws Error(unsupported) if oneDNN
  /// fails.
  void execute(const void* x, const float* w, const float* bias, void* y);

 private:
  struct Primitive;
  void compile(int num_threads);

  PackedMatmulShape shape_;
  int num_threads_ = 0;  // that it is compiled for
  std::unique_ptr<Primitive> primitive_;
};

}  // namespace attn::onednn
