// Norms, rotary position embedding and activations of dense rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/functional.hpp"
#include "kernels/exp.inl"
#include "kernels/lanes.inl"
#include "kernels/rows.inl"

namespace attn::kernels {
namespace {

// The statistics of norms are summed in double: the square of a float is exact there, and so are
// the first 2^29 additions of equal floats, and multiply-adds of doubles are still as fast as
// memory.

template <std::size_t... Lane>
ATTN_INLINE Vector joined(HalfVector low, HalfVector high, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(low, high, static_cast<int>(Lane)...);
}

double row_squares(const float* src, std::int64_t count, double center) {
  const auto add_square = [center](auto x, auto& sum) ATTN_INLINE_LAMBDA {
    const auto distance = x - center;
    sum = multiply_add(distance, distance, sum);
  };
  Doubles sums[row_unroll] = {};
  std::int64_t n = 0;
  for (; n + row_unroll * double_lanes <= count; n += row_unroll * double_lanes) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u)
        add_square(as_doubles(load_half(src + n + u * double_lanes)), sums[u]);
  }
  double sum = 0;
  for (; n < count; ++n) add_square(static_cast<double>(src[n]), sum);
  const Doubles all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int lane = 0; lane < double_lanes; ++lane) sum += all[lane];
  return sum;
}

template <bool Scaled, bool Biased>
void normalize_row(const NormalizedRow& row) {
  const auto [src, count, center, factor, scale, bias, dst] = row;
  const auto normalize_half =
      [center = center, factor = factor](HalfVector x, HalfVector scale_by, HalfVector add)
          ATTN_INLINE_LAMBDA {
            HalfVector y = as_floats((as_doubles(x) - center) * factor);
            if constexpr (Scaled && Biased) return multiply_add(y, scale_by, add);
            if constexpr (Scaled) y *= scale_by;
            if constexpr (Biased) y += add;
            return y;
          };
  const HalfVector none{};
  std::int64_t n = 0;
  for (; n + double_lanes <= count; n += double_lanes) {
    const HalfVector y = normalize_half(load_half(src + n), Scaled ? load_half(scale + n) : none,
                                        Biased ? load_half(bias + n) : none);
    __builtin_memcpy(dst + n, &y, sizeof y);
  }
  for (; n < count; ++n) {
    const HalfVector scale_by = Scaled ? scale[n] - none : none;
    const HalfVector add = Biased ? bias[n] - none : none;
    dst[n] = normalize_half(src[n] - none, scale_by, add)[0];
  }
}

void normalize(const NormalizedRow& row) {
  if (row.scale == nullptr)
    return row.bias == nullptr ? normalize_row<false, false>(row) : normalize_row<false, true>(row);
  return row.bias == nullptr ? normalize_row<true, false>(row) : normalize_row<true, true>(row);
}

void rope_half(float* first, float* second, const float* cos, const float* sin,
               std::int64_t count) {
  const auto rotate = [=](auto load_at, auto store_at, std::int64_t n) ATTN_INLINE_LAMBDA {
    const auto x = load_at(first + n), y = load_at(second + n), c = load_at(cos + n),
               s = load_at(sin + n);
    store_at(first + n, multiply_add(x, c, -(y * s)));
    store_at(second + n, multiply_add(x, s, y * c));
  };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) rotate(load, store, n);
  const auto load_one = [](const float* from) { return *from; };
  const auto store_one = [](float* to, float x) { *to = x; };
  for (; n < count; ++n) rotate(load_one, store_one, n);
}

/// Rotates W / 2 pairs of neighboring lanes by W / 2 angles, those from lane `First` on of cos and
/// sin.
template <int First, std::size_t... Lane>
ATTN_INLINE Vector rope_vector(Vector pairs, Vector cos, Vector sin, std::index_sequence<Lane...>) {
  const Vector partners = __builtin_shufflevector(pairs, pairs, static_cast<int>(Lane ^ 1)...);
  const Vector cosines = __builtin_shufflevector(cos, cos, (First + static_cast<int>(Lane / 2))...);
  const Vector sines = __builtin_shufflevector(sin, sin, (First + static_cast<int>(Lane / 2))...);
  constexpr Bits signs = {(Lane % 2 == 0 ? 0x80000000u : 0u)...};  // x cos - y sin, y cos + x sin
  return multiply_add(pairs, cosines, partners * from_bits(bits_of(sines) ^ signs));
}

void rope_interleaved(float* row, const float* cos, const float* sin, std::int64_t count) {
  constexpr auto lanes = std::make_index_sequence<vector_width>{};
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) {
    const Vector c = load(cos + n), s = load(sin + n);
    float* const low = row + 2 * n;
    float* const high = low + vector_width;
    store(low, rope_vector<0>(load(low), c, s, lanes));
    store(high, rope_vector<vector_width / 2>(load(high), c, s, lanes));
  }
  for (; n < count; ++n) {
    const float x = row[2 * n], y = row[2 * n + 1];
    row[2 * n] = multiply_add(x, cos[n], -(y * sin[n]));
    row[2 * n + 1] = multiply_add(y, cos[n], x * sin[n]);
  }
}

// All activations are x times a number between 0 and 1. It is computed from the exponential of a
// number <= 0, so that nothing overflows, and without cancellation where it is small.

/// max(x, least). NaN stays NaN.
ATTN_INLINE Vector at_least(Vector x, float least) { return max(broadcast(least), x); }
/// min(|x|, limit). NaN stays NaN.
ATTN_INLINE Vector magnitude_up_to(Vector x, float limit) {
  const Vector negative = from_bits(bits_of(x) | 0x80000000u);
  return -at_least(negative, -limit);
}

/// x / (1 + exp(-t)) for a t with the sign of x, from e = exp(-|t|). x must not be -infinity, as
/// -infinity times 0 would be NaN.
ATTN_INLINE Vector times_logistic(Vector x, Vector e) {
  return select(x < 0.f, x * e, x) / (1.f + e);
}

/// exp_nonpositive is 0 at -128, and silu(x) is -0 for all x below.
inline constexpr float silu_limit = 128.f;

ATTN_INLINE Vector silu_of(Vector x) {
  const Vector e = exp_nonpositive(-magnitude_up_to(x, silu_limit));
  return times_logistic(at_least(x, -silu_limit), e);
}

void silu(const float* src, std::int64_t count, float* dst) {
  map_row(src, count, dst, [](Vector x) { return silu_of(x); });
}

void swiglu(const float* gate, const float* up, std::int64_t count, float* dst) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width)
    store(dst + n, silu_of(load(gate + n)) * load(up + n));
  if (n < count)
    store_first(dst + n, count - n,
                silu_of(load_first(gate + n, count - n, 0)) * load_first(up + n, count - n, 0));
}

inline constexpr float gelu_limit = 16.f;  // beyond it both forms are x or -0

/// exp(-2 sqrt(2 / pi) (z + 0.044715 z^3)) for 0 <= z <= gelu_limit. The absolute error of the
/// exponent becomes a relative error of the result, so the exponent is computed in double and used
/// as a sum of two floats.
ATTN_INLINE Vector gelu_tanh_exponential(Vector z) {
  constexpr double linear = 1.5957691216057308, cubic = 0.07135481627260025;
  constexpr auto half = std::make_index_sequence<double_lanes>{};
  constexpr auto lanes = std::make_index_sequence<vector_width>{};
  const auto exponent = [](HalfVector floats) ATTN_INLINE_LAMBDA {
    const Doubles d = as_doubles(floats);
    return d * multiply_add(d * d, Doubles{} + cubic, Doubles{} + linear);
  };
  const Doubles low_lanes = exponent(part_of<0, double_lanes>(z, half));
  const Doubles high_lanes = exponent(part_of<double_lanes, double_lanes>(z, half));
  const HalfVector low_floats = as_floats(low_lanes), high_floats = as_floats(high_lanes);
  const Vector t = joined(low_floats, high_floats, lanes);
  const Vector rest = joined(as_floats(low_lanes - as_doubles(low_floats)),
                             as_floats(high_lanes - as_doubles(high_floats)), lanes);
  const Vector e = exp_nonpositive(-t);
  return multiply_add(-e, rest, e);
}

void gelu_tanh(const float* src, std::int64_t count, float* dst) {
  map_row(src, count, dst, [](Vector x) {
    const Vector e = gelu_tanh_exponential(magnitude_up_to(x, gelu_limit));
    return times_logistic(at_least(x, -gelu_limit), e);
  });
}

/// exp(-z^2 / 2) for 0 <= z <= gelu_limit. z is split into its leading 12 bits, whose square is
/// exact, and the rest: with d = (head^2 - z^2) / 2, |d| <= 2^-12 z^2.
ATTN_INLINE Vector exp_of_half_square(Vector z) {
  const Vector head = from_bits((bits_of(z) + 0x800u) & 0xfffff000u);
  const Vector d = (z - head) * (z + head) * -0.5f;
  Vector p = multiply_add(d, broadcast(1.f / 6), broadcast(0.5f));
  p = multiply_add(p, d, broadcast(1.f));
  p = multiply_add(p, d, broadcast(1.f));
  return exp_nonpositive(head * head * -0.5f) * p;
}

/// The tail of the normal distribution, Q(z) = erfc(z / sqrt(2)) / 2 = exp(-z^2 / 2) * g(z), for 0
/// <= z <= gelu_limit. g is a rational approximation within 1e-8; none of its coefficients is
/// negative, so that nothing cancels.
ATTN_INLINE Vector normal_tail(Vector z) {
  Vector numerator = broadcast(4.22192526698e-3f);
  numerator = multiply_add(numerator, z, broadcast(4.13405278866e-2f));
  numerator = multiply_add(numerator, z, broadcast(1.85325981934e-1f));
  numerator = multiply_add(numerator, z, broadcast(4.41104742886e-1f));
  numerator = multiply_add(numerator, z, broadcast(0.5f));
  Vector denominator = broadcast(1.05826994064e-2f);
  denominator = multiply_add(denominator, z, broadcast(1.03630874598e-1f));
  denominator = multiply_add(denominator, z, broadcast(4.74992050756e-1f));
  denominator = multiply_add(denominator, z, broadcast(1.21116788413f));
  denominator = multiply_add(denominator, z, broadcast(1.68009454188f));
  denominator = multiply_add(denominator, z, broadcast(1.f));
  return exp_of_half_square(z) * numerator / denominator;
}

void gelu_erf(const float* src, std::int64_t count, float* dst) {
  map_row(src, count, dst, [](Vector x) {
    const Vector z = magnitude_up_to(x, gelu_limit);
    const Vector tail = z * normal_tail(z);
    return select(x < 0.f, -tail, x - tail);
  });
}

inline constexpr FunctionalKernels functional_kernels = {.row_squares = row_squares,
                                                         .normalize = normalize,
                                                         .rope_half = rope_half,
                                                         .rope_interleaved = rope_interleaved,
                                                         .silu = silu,
                                                         .swiglu = swiglu,
                                                         .gelu_erf = gelu_erf,
                                                         .gelu_tanh = gelu_tanh};

}  // namespace
}  // namespace attn::kernels
