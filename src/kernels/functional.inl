// Norms, rotations and activations of dense rows.

// Statistics are summed in double: a square of a float is exact there, so are the first 2^29
// additions of equal floats, and a multiply-add of doubles still keeps up with memory. Half a
// vector of floats makes a vector of doubles.
inline constexpr int double_lanes = vector_width / 2;
typedef double Doubles __attribute__((vector_size(vector_width * 4)));
typedef float HalfVector __attribute__((vector_size(vector_width * 2)));
inline constexpr auto half_lanes = std::make_index_sequence<double_lanes>{};

ATTN_INLINE HalfVector load_half(const float* from) {
  HalfVector half;
  __builtin_memcpy(&half, from, sizeof half);
  return half;
}
ATTN_INLINE Doubles as_doubles(HalfVector half) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtps_pd(0xff, half);  // GCC 12 would make two conversions of it
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(half);
#else
  return __builtin_convertvector(half, Doubles);
#endif
}
ATTN_INLINE HalfVector as_floats(Doubles doubles) {
  return __builtin_convertvector(doubles, HalfVector);
}

template <std::size_t... Lane>
ATTN_INLINE Vector joined(HalfVector low, HalfVector high, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(low, high, static_cast<int>(Lane)...);
}

/// The sum of term(x) over a row. term takes a double, or several in a vector.
template <class Term>
ATTN_INLINE double sum_of_terms(const float* src, std::int64_t count, Term term) {
  Doubles sums[unroll] = {};
  std::int64_t n = 0;
  for (; n + unroll * double_lanes <= count; n += unroll * double_lanes) {
    ATTN_UNROLL for (int u = 0; u < unroll; ++u) sums[u] +=
        term(as_doubles(load_half(src + n + u * double_lanes)));
  }
  double sum = 0;
  for (; n < count; ++n) sum += term(static_cast<double>(src[n]));
  const Doubles all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int lane = 0; lane < double_lanes; ++lane) sum += all[lane];
  return sum;
}

double row_squares(const float* src, std::int64_t count, double center) {
  return sum_of_terms(src, count, [center](auto x) {
    const auto distance = x - center;
    return distance * distance;
  });
}

template <bool Scaled, bool Biased>
void normalize_row(const NormalizedRow& row) {
  const auto [src, count, center, factor, scale, bias, dst] = row;
  const auto normalize_half =
      [center = center, factor = factor](HalfVector x, HalfVector times, HalfVector plus)
          ATTN_INLINE_LAMBDA {
            HalfVector y = as_floats((as_doubles(x) - center) * factor);
            if constexpr (Scaled) y *= times;
            if constexpr (Biased) y += plus;
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
    const HalfVector times = Scaled ? scale[n] - none : none, plus = Biased ? bias[n] - none : none;
    dst[n] = normalize_half(src[n] - none, times, plus)[0];
  }
}

void normalize(const NormalizedRow& row) {
  if (row.scale == nullptr)
    return row.bias == nullptr ? normalize_row<false, false>(row) : normalize_row<false, true>(row);
  return row.bias == nullptr ? normalize_row<true, false>(row) : normalize_row<true, true>(row);
}

void rope_half(float* first, float* second, const float* cos, const float* sin,
               std::int64_t count) {
  const auto turn = [=](auto load_at, auto store_at, std::int64_t n) ATTN_INLINE_LAMBDA {
    const auto x = load_at(first + n), y = load_at(second + n), c = load_at(cos + n),
               s = load_at(sin + n);
    store_at(first + n, x * c - y * s);
    store_at(second + n, x * s + y * c);
  };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) turn(load, store, n);
  const auto load_one = [](const float* from) { return *from; };
  const auto store_one = [](float* to, float x) { *to = x; };
  for (; n < count; ++n) turn(load_one, store_one, n);
}

/// A lane's partner is its neighbor, and each angle serves two lanes: those from `First` on of the
/// angles' vector.
template <int First, std::size_t... Lane>
ATTN_INLINE Vector rope_vector(Vector pairs, Vector cos, Vector sin, std::index_sequence<Lane...>) {
  const Vector partners = __builtin_shufflevector(pairs, pairs, static_cast<int>(Lane ^ 1)...);
  const Vector cosines = __builtin_shufflevector(cos, cos, (First + static_cast<int>(Lane / 2))...);
  const Vector sines = __builtin_shufflevector(sin, sin, (First + static_cast<int>(Lane / 2))...);
  constexpr Bits signs = {(Lane % 2 == 0 ? 0x80000000u : 0u)...};  // x cos - y sin, y cos + x sin
  return pairs * cosines + partners * from_bits(bits_of(sines) ^ signs);
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
    row[2 * n] = x * cos[n] - y * sin[n];
    row[2 * n + 1] = x * sin[n] + y * cos[n];
  }
}

// Activations. All are x times something between 0 and 1 that is made from an exponential of a
// number <= 0, so that nothing overflows, and that is small for negative x without a difference of
// what is nearly equal.

/// x, or least if that is greater. NaN stays NaN.
ATTN_INLINE Vector at_least(Vector x, float least) { return max(broadcast(least), x); }
/// |x|, at most limit. NaN stays NaN.
ATTN_INLINE Vector magnitude_up_to(Vector x, float limit) {
  const Vector negative = from_bits(bits_of(x) | 0x80000000u);
  return -at_least(negative, -limit);
}

/// x / (1 + exp(-t)) for a t with the sign of x, from e = exp(-|t|). x is not -infinity, which
/// times 0 would be NaN.
ATTN_INLINE Vector times_logistic(Vector x, Vector e) {
  return select(x < 0.f, x * e, x) / (1.f + e);
}

/// exp(-128) is 0 in floats that are not subnormal; so are the exponentials of everything beyond
/// such limits.
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

inline constexpr float gelu_limit = 16.f;  // both forms are x or -0 long before

/// exp(-2 sqrt(2 / pi) (z + 0.044715 z^3)) for 0 <= z <= gelu_limit. An error of the exponent is
/// one of the result, times the exponent's size, so that is made in double and handed on as the sum
/// of two floats.
ATTN_INLINE Vector gelu_tanh_exponential(Vector z) {
  constexpr double linear = 1.5957691216057308, cubic = 0.07135481627260025;
  const auto exponent = [](HalfVector half) ATTN_INLINE_LAMBDA {
    const Doubles d = as_doubles(half);
    return d * (d * d * cubic + linear);
  };
  const Doubles low_lanes = exponent(part_of<0, double_lanes>(z, half_lanes));
  const Doubles high_lanes = exponent(part_of<double_lanes, double_lanes>(z, half_lanes));
  const HalfVector low_floats = as_floats(low_lanes), high_floats = as_floats(high_lanes);
  const Vector t = joined(low_floats, high_floats, std::make_index_sequence<vector_width>{});
  const Vector rest = joined(as_floats(low_lanes - as_doubles(low_floats)),
                             as_floats(high_lanes - as_doubles(high_floats)),
                             std::make_index_sequence<vector_width>{});
  const Vector e = exp_nonpositive(-t);
  return e - e * rest;
}

void gelu_tanh(const float* src, std::int64_t count, float* dst) {
  map_row(src, count, dst, [](Vector x) {
    const Vector e = gelu_tanh_exponential(magnitude_up_to(x, gelu_limit));
    return times_logistic(at_least(x, -gelu_limit), e);
  });
}

/// exp(-z^2 / 2) for 0 <= z <= gelu_limit. z is split into 12 bits, whose square is exact, and the
/// rest: |d| <= 2^-12 z^2.
ATTN_INLINE Vector exp_of_half_square(Vector z) {
  const Vector head = from_bits((bits_of(z) + 0x800u) & 0xfffff000u);
  const Vector d = (z - head) * (z + head) * -0.5f;
  Vector p = d * (1.f / 6) + 0.5f;
  p = p * d + 1.f;
  p = p * d + 1.f;
  return exp_nonpositive(head * head * -0.5f) * p;
}

/// The normal distribution beyond z, Q(z) = erfc(z / sqrt(2)) / 2 = exp(-z^2 / 2) * g(z) for 0 <= z
/// <= gelu_limit. g is rational, within 1e-8; none of its coefficients is negative, so that nothing
/// cancels.
ATTN_INLINE Vector normal_tail(Vector z) {
  Vector numerator = broadcast(4.22192526698e-3f);
  numerator = numerator * z + 4.13405278866e-2f;
  numerator = numerator * z + 1.85325981934e-1f;
  numerator = numerator * z + 4.41104742886e-1f;
  numerator = numerator * z + 0.5f;
  Vector denominator = broadcast(1.05826994064e-2f);
  denominator = denominator * z + 1.03630874598e-1f;
  denominator = denominator * z + 4.74992050756e-1f;
  denominator = denominator * z + 1.21116788413f;
  denominator = denominator * z + 1.68009454188f;
  denominator = denominator * z + 1.f;
  return exp_of_half_square(z) * numerator / denominator;
}

void gelu_erf(const float* src, std::int64_t count, float* dst) {
  map_row(src, count, dst, [](Vector x) {
    const Vector z = magnitude_up_to(x, gelu_limit);
    const Vector missing = z * normal_tail(z);
    return select(x < 0.f, -missing, x - missing);
  });
}
