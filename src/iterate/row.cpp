#include "iterate/row.hpp"

#include <cstring>

namespace attn::detail {
namespace {

void widen(const Row& row, const std::byte* from, std::int64_t count,
           const kernels::Kernels& kernels, float* to) {
  switch (row.dtype) {
    case DType::bf16:
      return kernels.widen_bf16(reinterpret_cast<const std::uint16_t*>(from), count, to);
    case DType::f16:
      return kernels.widen_f16(reinterpret_cast<const std::uint16_t*>(from), count, to);
    case DType::i8:
      return kernels.widen_i8(reinterpret_cast<const std::int8_t*>(from), count, row.scale, to);
    default: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  }
}

void narrow(DType dtype, const float* from, std::int64_t count, const kernels::Kernels& kernels,
            std::byte* to) {
  switch (dtype) {
    case DType::bf16: return kernels.narrow_bf16(from, count, reinterpret_cast<std::uint16_t*>(to));
    case DType::f16: return kernels.narrow_f16(from, count, reinterpret_cast<std::uint16_t*>(to));
    default: std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
  }
}

}  // namespace

void read_row(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
              float* to) noexcept {
  if (row.stride == 1) return widen(row, row.data, count, kernels, to);
  for (std::int64_t n = 0; n < count; ++n) widen(row, row.at(n), 1, kernels, to + n);
}

const float* as_floats(const Row& row, std::int64_t count, const kernels::Kernels& kernels,
                       float* staging) noexcept {
  if (row.dense_f32()) return row.floats();
  read_row(row, count, kernels, staging);
  return staging;
}

void write_row(const float* values, std::int64_t count, const kernels::Kernels& kernels,
               const Row& row) noexcept {
  if (row.stride == 1) return narrow(row.dtype, values, count, kernels, row.data);
  for (std::int64_t n = 0; n < count; ++n) narrow(row.dtype, values + n, 1, kernels, row.at(n));
}

void read_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
                 const kernels::Kernels& kernels, float* to) noexcept {
  if (vnni_factor == 1) return read_row(row, count, kernels, to);
  auto* const halves = reinterpret_cast<std::uint16_t*>(to);
  const auto copy = [&](const std::byte* from, std::int64_t run, std::uint16_t* dst) {
    if (row.dtype == DType::i8)
      return kernels.i8_to_bf16(reinterpret_cast<const std::int8_t*>(from), run, dst);
    std::memcpy(dst, from, static_cast<std::size_t>(run) * sizeof *dst);
  };
  if (row.stride == 1) {
    copy(row.data, count, halves);
  } else {
    for (std::int64_t n = 0; n < count; ++n) copy(row.at(n), 1, halves + n);
  }
  if (count % 2 != 0) halves[count] = 0;
}

bool is_packed(const Row& row, std::int64_t count, std::int64_t vnni_factor,
               std::int64_t row_stride) noexcept {
  if (vnni_factor == 1) return row.dense_f32();
  const bool aligned = reinterpret_cast<std::uintptr_t>(row.data) % sizeof(float) == 0;
  return row.dtype == DType::bf16 && row.stride == 1 && count % vnni_factor == 0 &&
         row_stride % vnni_factor == 0 && aligned;
}

}  // namespace attn::detail
