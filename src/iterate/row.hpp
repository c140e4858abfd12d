// One row of a tensor of any float type and stride, and its conversion to dense f32 and back.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {

/// Evenly spaced elements, usually those along a tensor's last dim. The row can be written to only
/// where the tensor can.
struct Row {
  std::byte* data;
  DType dtype;
  std::int64_t stride;  // in elements
  float scale = 1;      // i8 elements are multiplied by it; other types ignore it

  /// The address of an element.
  std::byte* at(std::int64_t index) const noexcept {
    return data + index * stride * static_cast<std::int64_t>(size_of(dtype));
  }
  /// The part of the row that begins at an element.
  Row from(std::int64_t index) const noexcept { return {at(index), dtype, stride, scale}; }
  /// Whether the elements are floats without gaps, which need no conversion.
  bool dense_f32() const noexcept { return dtype == DType::f32 && stride == 1; }
  /// The elements of an f32 row.
  float* floats() const noexcept { return reinterpret_cast<float*>(data); }
};

/// The row along the last dim of a tensor of rank 1 or more. The index names all other dims, as
/// numbers or as Dims.
template <class... Index>
Row row_of(const TensorView& tensor, const Index&... index) noexcept {
  return {address_of(tensor, index...), tensor.dtype, tensor.strides[tensor.rank() - 1]};
}

/// Widens `count` elements to floats.
void read_row(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
              float* to) noexcept;
/// Returns the row itself if it is dense f32; otherwise reads it into `staging`, which has room for
/// `count` floats.
const float* as_floats(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
                       float* staging) noexcept;
/// Rounds floats to the type of the row, which is not i8.
void write_row(const float* values, std::int64_t count, const kernels::Kernels& kernels,
               const Row& row) noexcept;

/// Reads a row as an operand of a multiplication: as floats if vnni_factor is 1. If it is 2, the
/// row is bf16, or i8 without its scale; its elements are not changed, and a 0 completes the last
/// pair.
void read_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
                 const kernels::Kernels& kernels, float* to) noexcept;
/// Whether the multiplication can read rows in place: `row` and those that follow it at multiples
/// of `row_stride` elements already lie as read_packed() would write them.
bool is_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
               std::int64_t row_stride) noexcept;

}  // namespace attn::detail
