// Transforms of runs of scores. The plain loops are vectorized by the compiler, as their iterations
// are independent.
#pragma once

#include <cstdint>

#include "kernels/contract/transforms.hpp"
#include "kernels/exp.inl"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

void scale(const float* src, std::int64_t count, float factor, float* dst) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) store(dst + n, load(src + n) * factor);
  for (; n < count; ++n) dst[n] = src[n] * factor;
}

void multiply(float* scores, std::int64_t count, const float* factors) {
  for (std::int64_t n = 0; n < count; ++n) scores[n] *= factors[n];
}

void softcap(float* scores, std::int64_t count, float cap) {
  const auto capped = [cap](Vector s) { return tanh(s / cap) * cap; };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) store(scores + n, capped(load(scores + n)));
  for (; n < count; ++n) scores[n] = capped(broadcast(scores[n]))[0];
}

/// 1 / (1 + exp(-(s + bias))), computed from exp(-|s + bias|), so that small results keep all of
/// their digits.
void sigmoid(float* scores, std::int64_t count, float bias) {
  const auto sigmoid_of = [bias](Vector s) ATTN_INLINE_LAMBDA {
    const Vector x = s + bias;
    const Vector e = exp2_nonpositive(from_bits(bits_of(x) | 0x80000000u) * log2e);
    return select(x < 0.f, e, broadcast(1.f)) / (1.f + e);
  };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width)
    store(scores + n, sigmoid_of(load(scores + n)));
  for (; n < count; ++n) scores[n] = sigmoid_of(broadcast(scores[n]))[0];
}

void alibi(float* scores, std::int64_t count, float slope, std::int64_t distance) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t difference = distance - n;
    const auto length = static_cast<float>(difference < 0 ? -difference : difference);
    scores[n] = multiply_add(-slope, length, scores[n]);
  }
}

void add_mask(float* scores, std::int64_t count, const float* mask) {
  for (std::int64_t n = 0; n < count; ++n)
    scores[n] = mask[n] == minus_infinity ? minus_infinity : scores[n] + mask[n];
}

/// Scans a mask from both ends to its first and last element that is kept, and looks at those
/// between. `kept` and `plain` take an element, or a vector of elements.
template <class Elements, class Element, class Kept, class Plain>
ATTN_INLINE MaskScan scan(const Element* mask, std::int64_t count, Kept kept, Plain plain) {
  constexpr std::int64_t width = sizeof(Elements) / sizeof(Element);
  const auto at = [&](std::int64_t n) ATTN_INLINE_LAMBDA {
    Elements elements;
    __builtin_memcpy(&elements, mask + n, sizeof elements);
    return elements;
  };
  MaskScan found{0, count, true};
  while (found.begin + width <= count && !any_lane(kept(at(found.begin)))) found.begin += width;
  while (found.begin < count && !kept(mask[found.begin])) ++found.begin;
  while (found.end - width >= found.begin && !any_lane(kept(at(found.end - width))))
    found.end -= width;
  while (found.end > found.begin && !kept(mask[found.end - 1])) --found.end;
  std::int64_t n = found.begin;
  for (; found.plain && n + width <= found.end; n += width) found.plain = !any_lane(~plain(at(n)));
  for (; found.plain && n < found.end; ++n) found.plain = plain(mask[n]);
  return found;
}

MaskScan scan_boolean(const std::uint8_t* mask, std::int64_t count) {
  const auto visible = [](auto m) ATTN_INLINE_LAMBDA { return m != 0; };
  return scan<Bytes>(mask, count, visible, visible);
}

MaskScan scan_additive(const float* mask, std::int64_t count) {
  return scan<Vector>(
      mask, count, [](auto m) ATTN_INLINE_LAMBDA { return m != minus_infinity; },
      [](auto m) ATTN_INLINE_LAMBDA { return m == 0.f; });
}

void hide(float* scores, std::int64_t count, const std::uint8_t* visible) {
  for (std::int64_t n = 0; n < count; ++n) scores[n] = visible[n] ? scores[n] : minus_infinity;
}

inline constexpr ScoreTransforms score_transforms = {.scale = scale,
                                                     .multiply = multiply,
                                                     .softcap = softcap,
                                                     .sigmoid = sigmoid,
                                                     .alibi = alibi,
                                                     .add_mask = add_mask,
                                                     .scan_boolean = scan_boolean,
                                                     .scan_additive = scan_additive,
                                                     .hide = hide};

}  // namespace
}  // namespace attn::kernels
