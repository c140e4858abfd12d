// Rows of tensors of any float type and stride, as dense f32 and back.
#pragma once

#include <attn/tensor.hpp>

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// The last dim of a [batch, head, position, dim] tensor at one place. Read-only where the tensor
/// is.
struct Row {
  std::byte* data;
  DType dtype;
  std::int64_t stride;
  float scale = 1;  // of i8 elements

  std::byte* at(std::int64_t index) const noexcept {
    return data + index * stride * static_cast<std::int64_t>(size_of(dtype));
  }
  /// Its floats lie side by side.
  bool dense_f32() const noexcept { return dtype == DType::f32 && stride == 1; }
  float* floats() const noexcept { return reinterpret_cast<float*>(data); }
};

inline Row row_of(const TensorView& tensor, std::int64_t batch, std::int64_t head,
                  std::int64_t position) noexcept {
  const std::int64_t offset =
      batch * tensor.strides[0] + head * tensor.strides[1] + position * tensor.strides[2];
  auto* data = static_cast<std::byte*>(const_cast<void*>(tensor.data));
  return {data + offset * static_cast<std::int64_t>(size_of(tensor.dtype)), tensor.dtype,
          tensor.strides[3]};
}

void read_row(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
              float* to) noexcept;
/// As operands of a multiplication: floats, or (vnni_factor 2) a bf16 row as it is, padded with 0
/// to a whole word.
void read_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
                 const kernels::Kernels& kernels, float* to) noexcept;
/// Whether rows of a tensor lie in memory as words already, and every `position_stride` elements.
bool is_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
               std::int64_t position_stride) noexcept;
/// The row in place if it is dense f32, else read into `staging`.
const float* as_floats(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
                       float* staging) noexcept;
/// Rounds to the row's type.
void write_row(const float* values, std::int64_t count, const kernels::Kernels& kernels,
               const Row& row) noexcept;

}  // namespace attn::detail
