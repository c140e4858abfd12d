// The one exponential of the project, with arguments in the log2 domain or not, and tanh made of
// it.

inline constexpr float log2e = 1.44269504088896341f;

// A power is taken apart as 2^(n + f), where n is a multiple of a step and f is half a step at
// most; exp2_of_parts makes it. The functions in front of it differ in how they find the parts.

/// The powers of the steps below 1 are a table in a register. Few terms of a polynomial are left,
/// and f is so small that what they round off hardly counts: within 0.7 ulp with 8 or 16 steps,
/// 0.99 with 2.
#if defined(__AVX512F__)
inline constexpr int step_bits = 4;
inline constexpr float terms_of_power[] = {5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f};
#elif defined(__AVX2__)
inline constexpr int step_bits = 3;
inline constexpr float terms_of_power[] = {9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f,
                                           6.93147181e-1f};
#else
inline constexpr int step_bits = 1;
inline constexpr float terms_of_power[] = {1.335195e-3f, 9.631542e-3f, 5.5504046e-2f, 2.4022625e-1f,
                                           6.931472e-1f};
#endif
inline constexpr int num_steps = 1 << step_bits;
inline constexpr float to_steps =
    12582912.f /
    num_steps;  // 1.5 * 2^23 / steps: adding it leaves round(steps * x) in the low bits

inline constexpr float powers[16] = {1.f,         1.04427373f, 1.09050775f, 1.13878858f,
                                     1.18920708f, 1.24185777f, 1.29683959f, 1.35425556f,
                                     1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                                     1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};
/// What the powers lack, as a part of them.
inline constexpr float powers_lack[16] = {0.f,         4.629e-08f,  -1.199e-08f, 4.73e-08f,
                                          3.193e-08f,  3.621e-08f,  -3.099e-08f, -7.475e-09f,
                                          1.711e-08f,  -3.048e-08f, 5.233e-09f,  6.108e-09f,
                                          -1.472e-08f, -5.259e-09f, -6.128e-09f, 5.141e-09f};

/// Bits of a step's power less what its number adds to the exponent's field, see below.
consteval std::uint32_t bits_of_power(std::size_t step) {
  return __builtin_bit_cast(std::uint32_t, powers[step * 16 / num_steps]) -
         (static_cast<std::uint32_t>(step) << (23 - step_bits));
}
consteval float lack_of_power(std::size_t step) { return powers_lack[step * 16 / num_steps]; }

template <std::size_t... Lane>
consteval Bits table_of_powers(std::index_sequence<Lane...>) {
  return Bits{bits_of_power(Lane % num_steps)...};
}
template <std::size_t... Lane>
consteval Vector table_of_lacks(std::index_sequence<Lane...>) {
  return Vector{lack_of_power(Lane % num_steps)...};
}
inline constexpr Bits power_table = table_of_powers(std::make_index_sequence<vector_width>{});
inline constexpr Vector lack_table = table_of_lacks(std::make_index_sequence<vector_width>{});

#if defined(__AVX512F__)
typedef __mmask16 Kept;
ATTN_INLINE Kept not_below(Vector x, float bound) {
  return _mm512_cmp_ps_mask(x, broadcast(bound), _CMP_NLT_UQ);
}
ATTN_INLINE Vector keep(Kept kept, Vector v) { return _mm512_maskz_mov_ps(kept, v); }
#else
typedef Lanes Kept;
ATTN_INLINE Kept not_below(Vector x, float bound) { return ~(x < bound); }
ATTN_INLINE Vector keep(Kept kept, Vector v) {
  return from_bits(bits_of(v) & reinterpret_cast<Bits>(kept));
}
#endif

/// The table's element that the low bits of each lane say.
ATTN_INLINE Vector look_up(Bits which, Vector table) {
#if defined(__AVX512F__)
  return _mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(which), table);
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(table, reinterpret_cast<__m256i>(which));
#else
  const std::uint32_t first = bits_of(table)[0], second = bits_of(table)[1];
  return from_bits(first ^ (-(which & 1u) & (first ^ second)));
#endif
}

/// 2^(n - m + f), or 0 in lanes that are not kept; shifted = n + to_steps, m is whole.
ATTN_INLINE Vector exp2_of_parts(Vector shifted, Vector f, std::int32_t m, Kept kept) {
  // Shifted left, n's whole steps are in the exponent's field, and the others below it, where the
  // table has them taken off.
  const Bits table = power_table - (static_cast<std::uint32_t>(m) << 23);
  const Vector power = from_bits(bits_of(look_up(bits_of(shifted), from_bits(table))) +
                                 (bits_of(shifted) << (23 - step_bits)));
  Vector q = broadcast(terms_of_power[0]);
  ATTN_UNROLL for (std::size_t n = 1; n < sizeof(terms_of_power) / sizeof(float); ++n) q =
      q * f + terms_of_power[n];
  const Vector more = f * q + look_up(bits_of(shifted), lack_table);
  return keep(kept, power * more + power);  // a NaN is in f, and so in the result
}

/// 2^x for x <= 0 (and a little above), within 1.3 ulp; exactly 0 below -126, so that no subnormal
/// is made; NaN stays NaN.
ATTN_INLINE Vector exp2_nonpositive(Vector x) {
  const Vector shifted = x + to_steps;
  return exp2_of_parts(shifted, x - (shifted - to_steps), 0, not_below(x, -126.f));
}

/// x * k - whole, where whole is x * k but for a small rest: as exact as the rest's own rounding.
/// Finite x.
ATTN_INLINE Vector rest_of_product(Vector x, const SplitFloat& k, Vector whole) {
#if defined(ATTN_FUSED_MULTIPLY_ADD)
  return x * k.low + fused_multiply_subtract(x, broadcast(k.high), whole);
#else
  // Products of halves are exact (Dekker 1971). The small ones are added up first.
  const Vector upper = from_bits(bits_of(x) & 0xfffff000u);
  const Vector lower = x - upper;
  return (upper * k.upper - whole) +
         (upper * k.lower + (lower * k.upper + (lower * k.lower + x * k.low)));
#endif
}

/// Terms of a row's sum, in place of x. All vectors take the first steps before one takes the
/// others: the chain of steps is long, and so fewer of them wait in the processor's queues.
template <bool Moved, int Count>
ATTN_INLINE void exp_of_row(Vector (&x)[Count], const ExpReduction& e) {
  Vector shifted[Count], f[Count];
  ATTN_UNROLL for (int v = 0; v < Count; ++v) {
    if constexpr (Moved) x[v] = (x[v] * e.shrink - e.shift) * e.stretch;
    shifted[v] = x[v] * e.factor.high + to_steps;
  }
  ATTN_UNROLL for (int v = 0; v < Count; ++v) f[v] =
      rest_of_product(x[v], e.factor, shifted[v] - to_steps);
  ATTN_UNROLL for (int v = 0; v < Count; ++v) x[v] =
      exp2_of_parts(shifted[v], f[v], e.whole, not_below(x[v], e.bound));
}
template <bool Moved>
ATTN_INLINE Vector exp_of_row(Vector x, const ExpReduction& e) {
  Vector one[1] = {x};
  exp_of_row<Moved>(one, e);
  return one[0];
}

/// e^x for x <= 0 (and a little above), as exactly as 2^x; 0 below -87.3, so that no subnormal is
/// made; NaN stays NaN.
ATTN_INLINE Vector exp_nonpositive(Vector x) { return exp_of_row<false>(x, plain_exponential); }

/// tanh to about 2 ulp: near 0 an odd minimax polynomial, elsewhere (1 - e) / (1 + e) with e =
/// exp(-2 |x|).
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
