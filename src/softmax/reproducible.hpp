// The exponential and the logarithm in double, the same bits on every machine. They use only
// operations whose result IEEE 754 defines to the last bit, and none is a fused multiply-add, which
// rounds once where a multiplication and an addition round twice. The exponential of the kernels
// (kernels/exp.inl) is f32 and its last bits depend on the instruction set; the functions of the
// standard library depend on the system.
#pragma once

#include <bit>
#include <cstdint>

namespace attn::detail {

// The sum of the two is ln 2, and n * ln2_high is exact for integers of 11 bits and sign.
inline constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;

/// e^x for x <= 0, with a relative error below 1e-15; 0 where e^x is below 1e-307.
inline double reproducible_exp(double x) noexcept {
  constexpr double log2e = 1.4426950408889634;
  constexpr double rounder = 0x1.8p52;  // adding it leaves the rounded number in the low bits
  constexpr double least = -706;
  const double shifted = x * log2e + rounder;
  const double n = shifted - rounder;
  const double f = (x - n * ln2_high) - n * ln2_low;  // |f| <= ln(2) / 2
  // The Taylor series up to f^13 / 13!; the next term is below 5e-18.
  double p = 1. / 6227020800;
  p = p * f + 1. / 479001600;
  p = p * f + 1. / 39916800;
  p = p * f + 1. / 3628800;
  p = p * f + 1. / 362880;
  p = p * f + 1. / 40320;
  p = p * f + 1. / 5040;
  p = p * f + 1. / 720;
  p = p * f + 1. / 120;
  p = p * f + 1. / 24;
  p = p * f + 1. / 6;
  p = p * f + 1. / 2;
  p = p * f + 1;
  p = p * f + 1;
  const double power = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) << 52) +
                                             (std::uint64_t{1023} << 52));
  return x < least ? 0 : p * power;
}

/// log x for finite x >= 1, with a relative error below 1e-15; NaN for NaN, inf for inf.
inline double reproducible_log(double x) noexcept {
  constexpr double sqrt_half = 0.7071067811865476;
  constexpr std::uint64_t exponent_of_one = std::uint64_t{1023} << 52;
  if (!(x <= 0x1.fffffffffffffp1023)) return x;
  // x = m 2^n with sqrt(1/2) <= m < sqrt(2)
  const auto bits = std::bit_cast<std::uint64_t>(x);
  double m = std::bit_cast<double>((bits & ((std::uint64_t{1} << 52) - 1)) | exponent_of_one);
  double n = static_cast<double>(bits >> 52) - 1023;
  if (m > 2 * sqrt_half) {
    m /= 2;
    n += 1;
  }
  // log m = 2 artanh(s) = 2 (s + s^3 / 3 + ...) with |s| < 0.1716; the term after s^21 / 21 is
  // below 2e-17 of the first. 2 s = f - s f, which rounds less than a product.
  const double f = m - 1, s = f / (2 + f), s2 = s * s;
  double tail = 1. / 21;
  tail = tail * s2 + 1. / 19;
  tail = tail * s2 + 1. / 17;
  tail = tail * s2 + 1. / 15;
  tail = tail * s2 + 1. / 13;
  tail = tail * s2 + 1. / 11;
  tail = tail * s2 + 1. / 9;
  tail = tail * s2 + 1. / 7;
  tail = tail * s2 + 1. / 5;
  tail = tail * s2 + 1. / 3;
  const double log_m = f - s * (f - 2 * s2 * tail);
  return n * ln2_high + (log_m + n * ln2_low);
}

}  // namespace attn::detail
