// The one exponential of the kernels, with arguments in the log2 domain or not, and tanh made of
// it.
//
// A power is split as 2^(n + f), where n is a multiple of a step 1 / num_steps and |f| is at most
// half a step; exp2_of_parts computes it. The functions below differ in how they find n and f.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/contract/rows.hpp"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

inline constexpr float minus_infinity = -__builtin_inff();
inline constexpr float log2e = 1.44269504088896341f;

/// The powers 2^step for the steps of [0, 1) are a table in a register. With more steps f is
/// smaller, so that fewer terms of the polynomial q(f) = (2^f - 1) / f are needed and their
/// rounding matters less: the result is within 0.7 ulp with 8 or 16 steps, 0.99 ulp with 2. The
/// terms are those from the highest power of f down.
template <int TableBits>
struct PowerPolynomial;
template <>
struct PowerPolynomial<4> {
  static constexpr float terms[] = {5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f};
};
template <>
struct PowerPolynomial<3> {
  static constexpr float terms[] = {9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f};
};
template <>
struct PowerPolynomial<1> {
  static constexpr float terms[] = {1.335195e-3f, 9.631542e-3f, 5.5504046e-2f, 2.4022625e-1f,
                                    6.931472e-1f};
};

inline constexpr int num_steps = 1 << table_bits;
/// 1.5 * 2^23 / num_steps. After it is added to x, the low bits hold round(num_steps * x).
inline constexpr float to_steps = 12582912.f / num_steps;

/// 2^(n / 16), rounded to f32.
inline constexpr float powers[16] = {1.f,         1.04427373f, 1.09050775f, 1.13878858f,
                                     1.18920708f, 1.24185777f, 1.29683959f, 1.35425556f,
                                     1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                                     1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};
/// The rounding errors of `powers`, relative to them: what has to be added.
inline constexpr float power_errors[16] = {0.f,         4.629e-08f,  -1.199e-08f, 4.73e-08f,
                                           3.193e-08f,  3.621e-08f,  -3.099e-08f, -7.475e-09f,
                                           1.711e-08f,  -3.048e-08f, 5.233e-09f,  6.108e-09f,
                                           -1.472e-08f, -5.259e-09f, -6.128e-09f, 5.141e-09f};

/// The bits of a step's power minus what the step's number adds to the exponent field in
/// exp2_of_parts.
consteval std::uint32_t bits_of_power(std::size_t step) {
  return __builtin_bit_cast(std::uint32_t, powers[step * 16 / num_steps]) -
         (static_cast<std::uint32_t>(step) << (23 - table_bits));
}
consteval float error_of_power(std::size_t step) { return power_errors[step * 16 / num_steps]; }

template <std::size_t... Lane>
consteval Bits table_of_powers(std::index_sequence<Lane...>) {
  return Bits{bits_of_power(Lane % num_steps)...};
}
template <std::size_t... Lane>
consteval Vector table_of_errors(std::index_sequence<Lane...>) {
  return Vector{error_of_power(Lane % num_steps)...};
}
inline constexpr Bits power_table = table_of_powers(std::make_index_sequence<vector_width>{});
inline constexpr Vector error_table = table_of_errors(std::make_index_sequence<vector_width>{});

/// 2^(n - m + f), or 0 in lanes that are not kept. shifted = n + to_steps; m is an integer.
ATTN_INLINE Vector exp2_of_parts(Vector shifted, Vector f, std::int32_t m, LaneMask kept) {
  // The left shift moves the integer part of n into the exponent field. The number of the step
  // lands below it, which the table compensates.
  const Bits table = power_table - (static_cast<std::uint32_t>(m) << 23);
  const Vector power = from_bits(bits_of(look_up(bits_of(shifted), from_bits(table))) +
                                 (bits_of(shifted) << (23 - table_bits)));
  using Polynomial = PowerPolynomial<table_bits>;
  Vector q = broadcast(Polynomial::terms[0]);
  ATTN_UNROLL for (std::size_t n = 1; n < sizeof(Polynomial::terms) / sizeof(float); ++n) q =
      multiply_add(q, f, broadcast(Polynomial::terms[n]));
  const Vector more = multiply_add(f, q, look_up(bits_of(shifted), error_table));
  return keep(kept, multiply_add(power, more, power));  // a NaN is in f, and so in the result
}

/// 2^x for x <= 0 (and slightly above), within 1.3 ulp; exactly 0 below -126, so that no subnormal
/// results; NaN stays NaN.
ATTN_INLINE Vector exp2_nonpositive(Vector x) {
  const Vector shifted = x + to_steps;
  return exp2_of_parts(shifted, x - (shifted - to_steps), 0, not_below(x, -126.f));
}

/// x * k - n, where n is close to x * k, with no more error than the rounding of the result. x must
/// be finite.
ATTN_INLINE Vector remainder_of_product(Vector x, const SplitFloat& k, Vector n) {
  if constexpr (has_fused_multiply_add) {
    return multiply_add(x, broadcast(k.low), multiply_subtract(x, broadcast(k.high), n));
  } else {
    // Products of halves are exact (Dekker 1971). The small ones are added first.
    const Vector leading = from_bits(bits_of(x) & 0xfffff000u);
    const Vector trailing = x - leading;
    return (leading * k.high_leading - n) +
           (leading * k.high_trailing +
            (trailing * k.high_leading + (trailing * k.high_trailing + x * k.low)));
  }
}

/// v of ExpReduction or LogTerms.
template <class Terms>
ATTN_INLINE Vector shifted(Vector x, const Terms& terms) {
  return multiply_subtract(x, broadcast(terms.pre_scale), broadcast(terms.shift)) *
         terms.post_scale;
}

/// The terms of ExpReduction, in place of x. Each step is done for all vectors before the next one:
/// the steps of a vector depend on each other, and in this order fewer of them wait in the
/// processor's queues.
template <bool HasShift, int Count>
ATTN_INLINE void exp_terms(Vector (&x)[Count], const ExpReduction& e) {
  Vector stepped[Count], f[Count];
  ATTN_UNROLL for (int v = 0; v < Count; ++v) {
    if constexpr (HasShift) x[v] = shifted(x[v], e);
    stepped[v] = multiply_add(x[v], broadcast(e.factor.high), broadcast(to_steps));
  }
  ATTN_UNROLL for (int v = 0; v < Count; ++v) f[v] =
      remainder_of_product(x[v], e.factor, stepped[v] - to_steps);
  ATTN_UNROLL for (int v = 0; v < Count; ++v) x[v] =
      exp2_of_parts(stepped[v], f[v], e.exponent, not_below(x[v], e.zero_below));
}
template <bool HasShift>
ATTN_INLINE Vector exp_terms(Vector x, const ExpReduction& e) {
  Vector one[1] = {x};
  exp_terms<HasShift>(one, e);
  return one[0];
}

/// e^x for x <= 0 (and slightly above), as accurate as 2^x; 0 below -87.3, so that no subnormal
/// results; NaN stays NaN.
ATTN_INLINE Vector exp_nonpositive(Vector x) { return exp_terms<false>(x, plain_exponential); }

/// tanh within about 2 ulp: near 0 an odd minimax polynomial, elsewhere (1 - e) / (1 + e) with e =
/// exp(-2 |x|).
ATTN_INLINE Vector tanh(Vector x) {
  const Vector magnitude = from_bits(bits_of(x) & 0x7fffffffu);
  const Bits sign = bits_of(x) & 0x80000000u;
  const Vector e = exp2_nonpositive(magnitude * (-2.f * log2e));
  const Vector far = (1.f - e) / (1.f + e);
  const Vector square = x * x;
  Vector p = broadcast(-5.70498872745e-3f);
  p = multiply_add(p, square, broadcast(2.06390887954e-2f));
  p = multiply_add(p, square, broadcast(-5.37397155531e-2f));
  p = multiply_add(p, square, broadcast(1.33314422036e-1f));
  p = multiply_add(p, square, broadcast(-3.33332819422e-1f));
  const Vector near = multiply_add(magnitude * square, p, magnitude);
  return from_bits(bits_of(select(magnitude < 0.625f, near, far)) | sign);
}

}  // namespace
}  // namespace attn::kernels
