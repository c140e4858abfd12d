// Ranges of a tensor's elements as dense floats and back, for any rank, type and strides.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>

#include "iterate/element_offsets.hpp"
#include "iterate/row.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// The elements of an f32, bf16 or f16 tensor, numbered in row-major order. A range is `count`
/// elements from `first` on.
class Elements {
 public:
  explicit Elements(const TensorView& tensor) noexcept
      : tensor_(tensor), offsets_(tensor.shape, tensor.strides) {}

  /// The address of a range that lies in memory as dense floats; null for any other.
  float* in_place(std::int64_t first, std::int64_t count) const noexcept;
  void read(std::int64_t first, std::int64_t count, const kernels::Kernels& kernels,
            float* to) const noexcept;
  /// Returns the range in place if it can; otherwise reads it into `staging`, which has room for
  /// `count` floats.
  const float* as_floats(std::int64_t first, std::int64_t count, const kernels::Kernels& kernels,
                         float* staging) const noexcept;
  /// Rounds to the tensor's type.
  void write(const float* values, std::int64_t first, std::int64_t count,
             const kernels::Kernels& kernels) const noexcept;

  float read_one(std::int64_t index, const kernels::Kernels& kernels) const noexcept;
  void write_one(float value, std::int64_t index, const kernels::Kernels& kernels) const noexcept;

 private:
  /// The evenly spaced elements at the beginning of a range. Sets `count` to their number.
  Row even_row(std::int64_t first, std::int64_t& count) const noexcept;

  TensorView tensor_;
  ElementOffsets offsets_;
};

/// One thread's memory for elements that are not dense floats.
struct Staging {
  const kernels::Kernels& kernels;
  float* x;
  float* y;
};

/// The input and the output of a function of dense floats. y may be the memory of x.
struct InputAndOutput {
  Elements x, y;

  /// Calls f(src, dst) for a range of elements, for which each staging memory has room.
  template <class F>
  void apply(std::int64_t first, std::int64_t count, const Staging& staging, F&& f) const {
    const float* const src = x.as_floats(first, count, staging.kernels, staging.x);
    float* const dst = y.in_place(first, count);
    f(src, dst == nullptr ? staging.y : dst);
    if (dst == nullptr) y.write(staging.y, first, count, staging.kernels);
  }
};

}  // namespace attn::detail
