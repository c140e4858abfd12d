// oneDNN's matmul. oneDNN compiles a fast kernel for the shape on processors for which it has a
// code generator, and uses plain loops on others. Matmul::fast() says which of the two it is.
#pragma once

#include <attn/tensor.hpp>

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

namespace attn::onednn {

/// C = A B, or C += A B with `accumulate`, for each of `batch` triples of matrices, with C and sums
/// in f32. All matrices are dense and row-major:
///   A [batch, m, k], B [batch, k, n] (b_transposed: [batch, n, k]), C [batch, m, n]
/// With b_in_panels, B is one matrix in the panels that packed_matmul.hpp describes.
struct MatmulShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t batch = 1;
  bool b_transposed = false;
  bool b_in_panels = false;
  std::int64_t b_stride = 0;  // from a row of B to the next; 0: its rows are dense
  bool accumulate = false;
  DType operands = DType::f32;  // of A and B: f32, or bf16 with b_in_panels
  /// What it is executed on: exactly so many threads, which granted_threads() has to have returned.
  int num_threads = 1;

  friend auto operator<=>(const MatmulShape&, const MatmulShape&) = default;
};

/// A compiled matmul. It is immutable and can be shared by threads, each of which executes it
/// through its own MatmulCall.
class Matmul {
 public:
  /// Returns the process-wide Matmul of this shape, and makes it if none exists. Some hundreds that
  /// nobody uses are kept, as making one takes longer than a small call. Throws Error(unsupported)
  /// if oneDNN cannot make it.
  static std::shared_ptr<const Matmul> shared(const MatmulShape& shape);

  /// Makes a Matmul that is not shared. Throws Error(unsupported) if oneDNN cannot make it.
  explicit Matmul(const MatmulShape& shape);
  ~Matmul();

  const MatmulShape& shape() const noexcept { return shape_; }
  /// oneDNN's name of the implementation that it chose, such as "brg:avx512_core".
  const std::string& implementation() const noexcept { return implementation_; }
  /// True for a kernel that was compiled for this shape, false for a general matrix product or
  /// plain loops.
  bool fast() const noexcept { return implementation_.starts_with("brg"); }
  /// Whether oneDNN has compiled kernels for panels of f32, or bf16, on this processor.
  static bool reads_panels(DType operands);

 private:
  friend class MatmulCall;
  struct Primitive;

  MatmulShape shape_;
  std::string implementation_;
  std::unique_ptr<const Primitive> primitive_;
};

/// The state that one thread needs to execute a Matmul: oneDNN's memory objects of A, B and C, and
/// scratch memory.
class MatmulCall {
 public:
  explicit MatmulCall(std::shared_ptr<const Matmul> matmul);
  MatmulCall(MatmulCall&&) noexcept;
  MatmulCall& operator=(MatmulCall&&) noexcept;
  ~MatmulCall();

  /// Computes C. It must not overlap A or B. Throws Error(unsupported) if oneDNN fails.
  void execute(const void* a, const void* b, float* c);

 private:
  struct Arguments;

  std::shared_ptr<const Matmul> matmul_;
  std::unique_ptr<Arguments> arguments_;
};

/// Computes C = A B at once, on at most shape.num_threads threads. The bits of C do not depend on
/// their number. Throws Error(unsupported) if oneDNN fails.
void multiply(const MatmulShape& shape, const float* a, const float* b, float* c);

}  // namespace attn::onednn
