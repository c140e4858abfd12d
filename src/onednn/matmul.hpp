// oneDNN's matmul. It is fast where a just-in-time kernel was written for the processor, and plain
// loops elsewhere: Matmul::fast() tells.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <string>

namespace attn::onednn {

/// C = A B in f32, for `batch` sets of matrices. Everything is dense and row-major:
///   A [batch, m, k], B [batch, k, n] (b_transposed: [batch, n, k]), C [batch, m, n]
struct MatmulShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t batch = 1;
  bool b_transposed = false;
  int num_threads = 1;

  friend auto operator<=>(const MatmulShape&, const MatmulShape&) = default;
};

/// The compiled operation: immutable, and shared by threads that execute it through a MatmulCall
/// each.
class Matmul {
 public:
  /// The one object of this shape in the process, which lives as long as someone holds it.
  /// Throws Error(unsupported) if oneDNN cannot make it.
  static std::shared_ptr<const Matmul> shared(const MatmulShape& shape);

  explicit Matmul(const MatmulShape& shape);
  ~Matmul();

  const MatmulShape& shape() const noexcept { return shape_; }
  /// oneDNN's name of what it chose, such as "brg:avx512_core".
  const std::string& implementation() const noexcept { return implementation_; }
  /// A kernel compiled for this shape, as opposed to a general matrix product or plain loops.
  bool fast() const noexcept { return implementation_.starts_with("brg"); }

 private:
  friend class MatmulCall;
  struct Primitive;

  MatmulShape shape_;
  std::string implementation_;
  std::unique_ptr<const Primitive> primitive_;
};

/// What one thread needs to execute a Matmul: oneDNN's handles of A, B and C, and scratch memory.
class MatmulCall {
 public:
  explicit MatmulCall(std::shared_ptr<const Matmul> matmul);
  MatmulCall(MatmulCall&&) noexcept;
  MatmulCall& operator=(MatmulCall&&) noexcept;
  ~MatmulCall();

  /// C must not overlap A or B. Throws Error(unsupported) if oneDNN fails.
  void execute(const float* a, const float* b, float* c);

 private:
  struct Handles;

  std::shared_ptr<const Matmul> matmul_;
  std::unique_ptr<Handles> handles_;
};

}  // namespace attn::onednn
