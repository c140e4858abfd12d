// The elementwise part of the backward pass. Scores and gradients are in L1; each is read and
// written once, with the exponential between.
#pragma once

#include <cstdint>

#include "kernels/contract/gradient.hpp"
#include "kernels/exp.inl"
#include "kernels/lanes.inl"
#include "kernels/online_softmax.inl"

namespace attn::kernels {
namespace {

inline constexpr float lowest_float = -__FLT_MAX__;

/// Calls f(scores, gradients) for the vectors of row r, whose hidden scores are -inf, and stores
/// what it makes of them; both become 0 in hidden lanes.
template <class F>
ATTN_INLINE void for_each_vector(const GradientTile& tile, std::int64_t r, F f) {
  float* const s = tile.scores + r * tile.stride;
  float* const g = tile.gradients + r * tile.stride;
  if (tile.begin[r] >= tile.end[r]) {
    fill(s, tile.first, tile.last, 0);
    fill(g, tile.first, tile.last, 0);
    return;
  }
  hide_outside(s, tile.first, tile.last, tile.begin[r], tile.end[r]);
  for (std::int64_t j = tile.first; j < tile.last; j += vector_width) {
    Vector scores = load(s + j), gradients = load(g + j);
    const LaneMask visible = not_below(scores, lowest_float);
    f(scores, gradients);
    store(s + j, keep(visible, scores));
    store(g + j, keep(visible, gradients));
  }
}

void softmax_gradient(const GradientTile& tile, float scale, const SoftmaxRowGradient& rows) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const Vector bases = broadcast(rows.base[r]), shifts = broadcast(rows.shift[r]),
                 means = broadcast(rows.mean[r]), scales = broadcast(scale);
    for_each_vector(tile, r, [=](Vector& s, Vector& g) ATTN_INLINE_LAMBDA {
      s = exp2_nonpositive(multiply_subtract(s - bases, scales, shifts));
      g = s * (g - means);
    });
  }
}

void sigmoid_gradient(const GradientTile& tile, const float* shift) {
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float bias = shift[r];
    for_each_vector(tile, r, [=](Vector& s, Vector& g) ATTN_INLINE_LAMBDA {
      // 1 - P is P of the opposite argument, which loses no digits where P is close to 1.
      const Vector x = s + bias;
      const Vector e = exp2_nonpositive(from_bits(bits_of(x) | 0x80000000u) * log2e);
      const Vector rest = e / (1.f + e), most = 1.f / (1.f + e);
      s = select(x < 0.f, rest, most);
      g = (rest * most) * g;
    });
  }
}

void softcap_gradient(const float* capped, std::int64_t count, float cap, float* gradient) {
  for (std::int64_t n = 0; n < count; ++n) {
    const float tanh = capped[n] / cap;
    gradient[n] = gradient[n] == 0 ? 0.f : gradient[n] * ((1.f - tanh) * (1.f + tanh));
  }
}

double distance_sum(const float* x, std::int64_t count, std::int64_t distance, double sum) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t difference = distance - n;
    sum = multiply_add(static_cast<double>(difference < 0 ? -difference : difference),
                       static_cast<double>(x[n]), sum);
  }
  return sum;
}

void sum_copies(const Copies& x, std::int64_t count, float factor, float* to) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) {
    Vector sum{};
    for (std::int64_t copy = 0; copy < x.number; ++copy) sum += load(x.first + copy * x.stride + n);
    store(to + n, sum * factor);
  }
  for (; n < count; ++n) {
    float sum = 0;
    for (std::int64_t copy = 0; copy < x.number; ++copy) sum += x.first[copy * x.stride + n];
    to[n] = sum * factor;
  }
}

inline constexpr GradientKernels gradient_kernels = {.softmax_gradient = softmax_gradient,
                                                     .sigmoid_gradient = sigmoid_gradient,
                                                     .softcap_gradient = softcap_gradient,
                                                     .distance_sum = distance_sum,
                                                     .sum_copies = sum_copies};

#if defined(ATTN_BF16_DOT_PRODUCTS)

void pair_rows(const PairedRows& tile) {
  for (std::int64_t r = 0; r < tile.rows; r += 2) {
    const float* const even = tile.x + r * tile.stride;
    const float* const odd = r + 1 < tile.rows ? even + tile.stride : nullptr;
    float* const pairs = tile.pairs + r / 2 * tile.stride;
    for (std::int64_t j = 0; j < tile.columns; j += 2 * vector_width) {
      const Vector e0 = load(even + j), e1 = load(even + j + vector_width);
      const Vector o0 = odd ? load(odd + j) : Vector{},
                   o1 = odd ? load(odd + j + vector_width) : Vector{};
      store(pairs + j, interleave_as_bf16(e0, o0));
      store(pairs + j + vector_width, interleave_as_bf16(e1, o1));
      if (tile.rounded == nullptr) continue;
      float* const rounded = tile.rounded + r * tile.stride + j / 2;
      store(rounded, round_to_bf16_pairs(e0, e1));
      if (odd) store(rounded + tile.stride, round_to_bf16_pairs(o0, o1));
    }
  }
}

#endif

}  // namespace
}  // namespace attn::kernels
