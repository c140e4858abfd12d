#include "attention/rows.hpp"

#include <cstring>

namespace attn {
namespace {

void widen(DType dtype, const std::byte* from, std::int64_t count, const kernels::Kernels& kernels, float* to) {
  switch (dtype) {
    case DType::bf16: return kernels.widen_bf16(reinterpret_cast<const std::uint16_t*>(from), count, to);
    case DType::f16: return kernels.widen_f16(reinterpret_cast<const std::uint16_t*>(from), count, to);
    default: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  }
}

void narrow(DType dtype, const float* from, std::int64_t count, const kernels::Kernels& kernels, std::byte* to) {
  switch (dtype) {
    case DType::bf16: return kernels.narrow_bf16(from, count, reinterpret_cast<std::uint16_t*>(to));
    case DType::f16: return kernels.narrow_f16(from, count, reinterpret_cast<std::uint16_t*>(to));
    default: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  }
}

}  // namespace

Row row_of(const TensorView& tensor, std::int64_t batch, std::int64_t head, std::int64_t position) noexcept {
  const std::int64_t offset = batch * tensor.strides[0] + head * tensor.strides[1] + position * tensor.strides[2];
  const auto* data = static_cast<const std::byte*>(tensor.data);
  return {data + offset * static_cast<std::int64_t>(size_of(tensor.dtype)), tensor.dtype, tensor.strides[3]};
}

void read_row(const Row& row, std::int64_t count, const kernels::Kernels& kernels, float* to) noexcept {
  if (row.stride == 1) return widen(row.dtype, row.data, count, kernels, to);
  for (std::int64_t n = 0; n < count; ++n) widen(row.dtype, row.at(n), 1, kernels, to + n);
}

const float* as_floats(const Row& row, std::int64_t count, const kernels::Kernels& kernels, float* staging) noexcept {
  if (row.dense_f32()) return reinterpret_cast<const float*>(row.data);
  read_row(row, count, kernels, staging);
  return staging;
}

void write_row(const MutableTensorView& tensor, std::int64_t batch, std::int64_t head, std::int64_t position, const float* values,
               const kernels::Kernels& kernels) noexcept {
  const Row row = row_of(tensor, batch, head, position);
  const auto to = [&](std::int64_t n) { return const_cast<std::byte*>(row.at(n)); };
  if (row.stride == 1) return narrow(row.dtype, values, tensor.shape[3], kernels, to(0));
  for (std::int64_t n = 0; n < tensor.shape[3]; ++n) narrow(row.dtype, values + n, 1, kernels, to(n));
}

}  // namespace attn
