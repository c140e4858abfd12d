// Conversions of single elements of 16 bits.
#pragma once

#include <cstdint>

#include "kernels/macros.inl"

namespace attn::kernels {
namespace {

ATTN_INLINE std::uint32_t float_bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
ATTN_INLINE float bits_float(std::uint32_t x) { return __builtin_bit_cast(float, x); }

ATTN_INLINE float widen_one_f16(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
  const std::uint32_t shifted = std::uint32_t{half & 0x7fffu} << 13;
  constexpr std::uint32_t exponent = 0x0f800000;  // f16's exponent field, shifted
  if ((shifted & exponent) == exponent) return bits_float(sign | (shifted + 0x70000000));
  // Multiplying by 2^112 corrects the exponent's bias and normalizes subnormals, exactly.
  return bits_float(sign | float_bits(bits_float(shifted) * 0x1p112f));
}

ATTN_INLINE std::uint16_t narrow_one_f16(float x) {
  const std::uint32_t sign = (float_bits(x) >> 16) & 0x8000;
  const std::uint32_t magnitude = float_bits(x) & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000)
    return static_cast<std::uint16_t>(sign | 0x7c00);  // it rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // The result is subnormal in f16. After 0.5 is added, the low bits are the value in units of
    // 2^-24, rounded.
    return static_cast<std::uint16_t>(
        sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

}  // namespace
}  // namespace attn::kernels
