// Conversions between f32 and the narrower element types. Each reads and writes exactly `count`
// elements; f16 and bf16 are given as their bits.
#pragma once

#include <cstdint>

namespace attn::kernels {

struct ConvertKernels {
  /// Exact. Signaling NaNs of f16 become quiet where the processor converts.
  void (*widen_bf16)(const std::uint16_t* src, std::int64_t count, float* dst);
  void (*widen_f16)(const std::uint16_t* src, std::int64_t count, float* dst);
  /// dst[n] = src[n] * scale
  void (*widen_i8)(const std::int8_t* src, std::int64_t count, float scale, float* dst);
  /// The integers themselves as bf16, which has room for them.
  void (*i8_to_bf16)(const std::int8_t* src, std::int64_t count, std::uint16_t* dst);
  /// Round to nearest even. Values beyond the range become infinite; NaN stays NaN.
  void (*narrow_bf16)(const float* src, std::int64_t count, std::uint16_t* dst);
  void (*narrow_f16)(const float* src, std::int64_t count, std::uint16_t* dst);
};

}  // namespace attn::kernels
