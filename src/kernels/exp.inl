// The one exponential of the project, in the log2 domain, and tanh made of it.

inline constexpr float log2e = 1.44269504088896341f;

// 2^x for x <= 0 (and a little above), within 1.3 ulp; exactly 0 below -126, so that no subnormal is made; NaN stays NaN.
#if defined(__AVX512F__)
/// x = n + i/16 + f with n whole, i in 0..15 and |f| <= 1/32: 2^(i/16) from a table in a register, 2^f by Taylor's terms up
/// to f^3. Three multiply-adds fewer than without a table, where multiply-adds are what bounds a score's exponential.
ATTN_INLINE Vector exp2_nonpositive(Vector x) {
  constexpr Vector powers = {
      1.f, 1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
      1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
      1.68179286f, 1.75625217f, 1.8340081f, 1.91520655f,
  };
  constexpr float to_sixteenths = 12582912.f / 16;  // 1.5 * 2^19: adding it leaves round(16 x) in the low bits
  const Vector shifted = x + to_sixteenths;
  const Vector sixteenths = shifted - to_sixteenths;
  const Vector f = x - sixteenths;
  const Vector power = _mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(shifted), powers);
  Vector q = broadcast(5.55041087e-2f);
  q = q * f + 2.40226507e-1f;
  q = q * f + 6.93147181e-1f;
  const Vector p = (power * f) * q + power;
  const __mmask16 not_below = _mm512_cmp_ps_mask(x, broadcast(-126.f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(not_below, p, sixteenths);  // takes the floor of its exponent
}
#else
/// x = n + f with n whole and |f| <= 1/2; 2^f by a minimax polynomial of degree 6.
ATTN_INLINE Vector exp2_nonpositive(Vector x) {
  constexpr float to_whole = 12582912.f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  const Vector shifted = x + to_whole;
  const Vector f = x - (shifted - to_whole);
  Vector p = broadcast(1.53458124e-4f);
  p = p * f + 1.33999309e-3f;
  p = p * f + 9.61848907e-3f;
  p = p * f + 5.55032864e-2f;
  p = p * f + 2.40226462e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.f;
  // A product, not an addition to the exponent's bits: that could turn a NaN into a number.
  const Vector power = from_bits((bits_of(shifted) << 23) + (127u << 23));
  return select(x < -126.f, Vector{}, p * power);
}
#endif

/// tanh to about 2 ulp: near 0 an odd minimax polynomial, elsewhere (1 - e) / (1 + e) with e = exp(-2 |x|).
ATTN_INLINE Vector tanh(Vector x) {
  const Vector magnitude = from_bits(bits_of(x) & 0x7fffffffu);
  const Bits sign = bits_of(x) & 0x80000000u;
  const Vector e = exp2_nonpositive(magnitude * (-2.f * log2e));
  const Vector far = (1.f - e) / (1.f + e);
  const Vector square = x * x;
  Vector p = broadcast(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square + -5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square + -3.33332819422e-1f;
  const Vector near = magnitude + magnitude * square * p;
  return from_bits(bits_of(select(magnitude < 0.625f, near, far)) | sign);
}
