// Transforms of runs of scores. Each reads and writes exactly `count` floats.
#pragma once

#include <cstdint>

namespace attn::kernels {

/// What a run of a dense mask says, counted from its first key.
struct MaskScan {
  std::int64_t begin;  // the first key that it does not hide
  std::int64_t end;    // one after the last; not above begin if it hides all keys
  bool plain;          // it changes nothing between them: all true, or all 0
};

struct ScoreTransforms {
  /// dst[n] = src[n] * factor; dst may be src.
  void (*scale)(const float* src, std::int64_t count, float factor, float* dst);
  /// scores[n] *= factors[n]
  void (*multiply)(float* scores, std::int64_t count, const float* factors);
  /// scores[n] = cap * tanh(scores[n] / cap)
  void (*softcap)(float* scores, std::int64_t count, float cap);
  /// scores[n] = 1 / (1 + exp(-(scores[n] + bias))). NaN stays NaN, and -inf becomes 0.
  void (*sigmoid)(float* scores, std::int64_t count, float bias);
  /// scores[n] -= slope * |distance - n|, where distance is the query's position minus that of the
  /// first key.
  void (*alibi)(float* scores, std::int64_t count, float slope, std::int64_t distance);
  /// scores[n] += mask[n]. Where mask[n] is -inf the score becomes -inf, even if it was NaN.
  void (*add_mask)(float* scores, std::int64_t count, const float* mask);
  /// Of a boolean mask: 0 hides.
  MaskScan (*scan_boolean)(const std::uint8_t* mask, std::int64_t count);
  /// Of an additive mask: -inf hides.
  MaskScan (*scan_additive)(const float* mask, std::int64_t count);
  /// scores[n] = -inf where visible[n] is 0.
  void (*hide)(float* scores, std::int64_t count, const std::uint8_t* visible);
};

}  // namespace attn::kernels
