// Where the n-th element of a strided tensor lies.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>

namespace attn::detail {

/// The offsets of a tensor's elements, which are numbered in row-major order. Dims of extent 1 are
/// dropped, and neighboring dims whose strides make them one dim are merged, so that most tensors
/// need few divisions. The tensor has passed require_memory(): products of other strides may
/// overflow.
class ElementOffsets {
 public:
  ElementOffsets(const Dims& shape, const Dims& strides) noexcept;

  /// The distance of element `index` from the first, in elements.
  std::int64_t offset(std::int64_t index) const noexcept {
    std::int64_t offset = 0;
    for (int dim = shape_.rank() - 1; dim > 0; --dim) {
      offset += index % shape_[dim] * strides_[dim];
      index /= shape_[dim];
    }
    return shape_.rank() == 0 ? 0 : offset + index * strides_[0];
  }

  struct EvenRun {
    std::int64_t count;   // elements, 1 or more
    std::int64_t stride;  // between them, in elements
  };
  /// Elements from `first` on that are evenly spaced: those up to the end of the last merged dim.
  EvenRun even_run(std::int64_t first) const noexcept;

 private:
  Dims shape_, strides_;
};

}  // namespace attn::detail
