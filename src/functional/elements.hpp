// The elements of a tensor of any rank, type and strides as dense floats and back, any number of
// them at a time.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"
#include "kernels/rows.hpp"
#include "softmax/slices.hpp"

namespace attn::detail {

/// Elements are numbered in row-major order.
class Elements {
 public:
  explicit Elements(const TensorView& tensor) noexcept
      : data_(static_cast<std::byte*>(const_cast<void*>(tensor.data))),
        dtype_(tensor.dtype),
        positions_(tensor.shape, tensor.strides) {}

  /// Elements first, ..., first + count - 1 where they are, if those are floats side by side; else
  /// null.
  float* in_place(std::int64_t first, std::int64_t count) const noexcept;
  void read(std::int64_t first, std::int64_t count, const kernels::Kernels& kernels,
            float* to) const noexcept;
  /// Rounds to the tensor's type.
  void write(const float* values, std::int64_t first, std::int64_t count,
             const kernels::Kernels& kernels) const noexcept;

 private:
  /// Those from `first` on that lie evenly, at most `count`, which becomes their number.
  Row even_row(std::int64_t first, std::int64_t& count) const noexcept;

  std::byte* data_;
  DType dtype_;
  ElementOffsets positions_;
};

/// Memory of one thread, for elements that are not floats side by side.
struct Staging {
  const kernels::Kernels& kernels;
  float* x;
  float* y;
};

/// What a function of dense floats reads and where it writes. y may be the memory of x.
struct InAndOut {
  Elements x, y;

  /// Calls f(src, dst) for elements first, ..., first + count - 1. Each staging has room for so
  /// many.
  template <class F>
  void apply(std::int64_t first, std::int64_t count, const Staging& staging, F&& f) const {
    const float* src = x.in_place(first, count);
    if (src == nullptr) {
      x.read(first, count, staging.kernels, staging.x);
      src = staging.x;
    }
    float* const dst = y.in_place(first, count);
    f(src, dst == nullptr ? staging.y : dst);
    if (dst == nullptr) y.write(staging.y, first, count, staging.kernels);
  }
};

}  // namespace attn::detail
