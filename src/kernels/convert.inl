// Conversions between f32 and the narrower element types.
#pragma once

#include <cstdint>

#include "kernels/contract/convert.hpp"
#include "kernels/lanes.inl"
#include "kernels/scalar.inl"

namespace attn::kernels {
namespace {

void widen_bf16(const std::uint16_t* src, std::int64_t count, float* dst) {
  for (std::int64_t n = 0; n < count; ++n) dst[n] = bits_float(std::uint32_t{src[n]} << 16);
}

void narrow_bf16(const float* src, std::int64_t count, std::uint16_t* dst) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::uint32_t bits = float_bits(src[n]);
    const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const std::uint32_t quiet_nan = bits | 0x400000;
    dst[n] =
        static_cast<std::uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded) >> 16);
  }
}

void widen_f16(const std::uint16_t* src, std::int64_t count, float* dst) {
  std::int64_t n = 0;
  if constexpr (has_f16_conversions) {
    for (; n + vector_width <= count; n += vector_width) store(dst + n, load_f16(src + n));
  }
  for (; n < count; ++n) dst[n] = widen_one_f16(src[n]);
}

void widen_i8(const std::int8_t* src, std::int64_t count, float scale, float* dst) {
  for (std::int64_t n = 0; n < count; ++n) dst[n] = static_cast<float>(src[n]) * scale;
}

void i8_to_bf16(const std::int8_t* src, std::int64_t count, std::uint16_t* dst) {
  for (std::int64_t n = 0; n < count; ++n)
    dst[n] = static_cast<std::uint16_t>(float_bits(static_cast<float>(src[n])) >> 16);
}

void narrow_f16(const float* src, std::int64_t count, std::uint16_t* dst) {
  std::int64_t n = 0;
  if constexpr (has_f16_conversions) {
    for (; n + vector_width <= count; n += vector_width) store_f16(dst + n, load(src + n));
  }
  for (; n < count; ++n) dst[n] = narrow_one_f16(src[n]);
}

inline constexpr ConvertKernels convert_kernels = {.widen_bf16 = widen_bf16,
                                                   .widen_f16 = widen_f16,
                                                   .widen_i8 = widen_i8,
                                                   .i8_to_bf16 = i8_to_bf16,
                                                   .narrow_bf16 = narrow_bf16,
                                                   .narrow_f16 = narrow_f16};

}  // namespace
}  // namespace attn::kernels
