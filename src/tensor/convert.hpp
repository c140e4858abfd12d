// Single elements between the 16-bit floats and f32, round to nearest even. Runs of them go through the kernels.
#pragma once

#include <attn/tensor.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace attn {

inline float to_float(bf16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }

inline float to_float(f16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const int exponent = x.bits >> 10 & 31;
  const std::uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24) : std::ldexp(static_cast<float>(mantissa | 0x400), exponent - 25);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

inline bf16 to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline f16 to_f16(float x) {
  const auto sign = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16 & 0x8000);
  const auto with_sign = [sign](std::uint32_t magnitude) { return f16{static_cast<std::uint16_t>(sign | magnitude)}; };
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return with_sign(0x7e00);
  if (magnitude >= 65520.f) return with_sign(0x7c00);  // rounds to 65536 or more
  // Whole units of the last place: 2^-24 below the smallest normal number, 2^(exponent - 10) above.
  const int exponent = std::max(std::ilogb(std::max(magnitude, 0x1p-14f)), -14);
  const auto units = static_cast<std::uint32_t>(std::lrint(std::ldexp(magnitude, 10 - exponent)));
  return with_sign(units + (static_cast<std::uint32_t>(exponent + 14) << 10));  // a carry moves into the exponent
}

}  // namespace attn
