// Selection of elements above a bound, and sums and powers of what exceeds a threshold: the inner
// loops of sparsemax and entmax.

/// The lanes of v that are set in `which`, side by side from lane 0 on; stored as a whole vector.
/// Returns how many.
ATTN_INLINE std::int64_t store_selected(float* to, Vector v, Lanes which) {
#if defined(__AVX512F__)
  const __mmask16 mask = _mm512_movepi32_mask(reinterpret_cast<__m512i>(which));
  store(to, _mm512_maskz_compress_ps(mask, v));
  return __builtin_popcount(mask);
#elif defined(__AVX2__)
  const auto mask = static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(which)));
  // A byte for each lane: all ones where it is set, then the numbers of those lanes pulled
  // together.
  const std::uint64_t bytes = _pdep_u64(mask, 0x0101010101010101u) * 0xff;
  const std::uint64_t numbers = _pext_u64(0x0706050403020100u, bytes);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(numbers)));
  store(to, _mm256_permutevar8x32_ps(v, lanes));
  return __builtin_popcount(mask);
#else
  std::int64_t kept = 0;
  for (int lane = 0; lane < vector_width; ++lane) {
    to[kept] = v[lane];
    kept -= which[lane];
  }
  return kept;
#endif
}

std::int64_t compress_above(const float* src, std::int64_t count, float shift, float bound,
                            float* dst) {
  std::int64_t n = 0, kept = 0;
  for (; n + vector_width <= count; n += vector_width) {
    const Vector v = load(src + n) - shift;
    kept += store_selected(dst + kept, v, v > bound);
  }
  for (; n < count; ++n) {
    const float v = src[n] - shift;
    dst[kept] = v;
    kept += v > bound;
  }
  return kept;
}

typedef float HalfVector __attribute__((vector_size(vector_width * 2)));
typedef double DoubleVector __attribute__((vector_size(vector_width * 4)));

template <std::size_t... Lane>
ATTN_INLINE DoubleVector sum_of_halves(Vector v, std::index_sequence<Lane...>) {
  const HalfVector low = __builtin_shufflevector(v, v, static_cast<int>(Lane)...);
  const HalfVector high =
      __builtin_shufflevector(v, v, (static_cast<int>(Lane) + vector_width / 2)...);
  return __builtin_convertvector(low, DoubleVector) + __builtin_convertvector(high, DoubleVector);
}

/// What excess_sums adds up, lane by lane. Sums grow in double: of many equal elements floats would
/// lose digits all one way.
struct ExcessTotals {
  Lanes number{};  // of elements, counted down
  DoubleVector sum{};
  DoubleVector squares{};

  void add(Vector some, Vector their_squares) {
    sum += sum_of_halves(some, std::make_index_sequence<vector_width / 2>{});
    squares += sum_of_halves(their_squares, std::make_index_sequence<vector_width / 2>{});
  }
};

ATTN_INLINE Vector excess_of(Vector d, const Threshold& cut) {
  return max((d - cut.high) - cut.low, Vector{});
}

ExcessSums excess_sums(const float* d, std::int64_t count, const Threshold& cut) {
  ExcessTotals totals;
  std::int64_t n = 0;
  for (; n + 8 * vector_width <= count; n += 8 * vector_width) {
    // In pairs of pairs, so that equal ones lose nothing.
    Vector sums[2], squares[2];
    ATTN_UNROLL for (int half = 0; half < 2; ++half) {
      Vector u[4];
      ATTN_UNROLL for (int v = 0; v < 4; ++v) {
        u[v] = excess_of(load(d + n + (4 * half + v) * vector_width), cut);
        totals.number += u[v] > 0.f;
      }
      sums[half] = (u[0] + u[1]) + (u[2] + u[3]);
      squares[half] = (u[0] * u[0] + u[1] * u[1]) + (u[2] * u[2] + u[3] * u[3]);
    }
    totals.add(sums[0] + sums[1], squares[0] + squares[1]);
  }
  for (; n + vector_width <= count; n += vector_width) {
    const Vector u = excess_of(load(d + n), cut);
    totals.number += u > 0.f;
    totals.add(u, u * u);
  }
  ExcessSums sums{0, 0, 0};
  for (; n < count; ++n) {
    const float u = (d[n] - cut.high) - cut.low;
    if (!(u > 0)) continue;
    ++sums.number;
    sums.sum += u;
    sums.squares += static_cast<double>(u) * u;
  }
  for (int lane = 0; lane < vector_width; ++lane) sums.number -= totals.number[lane];
  for (int lane = 0; lane < vector_width / 2; ++lane) {
    sums.sum += totals.sum[lane];
    sums.squares += totals.squares[lane];
  }
  return sums;
}

template <class Weigh>
ATTN_INLINE void weigh_excesses(const float* x, std::int64_t count, float shift,
                                const Threshold& cut, float* dst, Weigh weigh_one) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width)
    store(dst + n, weigh_one(excess_of(load(x + n) - shift, cut)));
  for (; n < count; ++n) dst[n] = weigh_one(excess_of(broadcast(x[n] - shift), cut))[0];
}

void excesses(const float* x, std::int64_t count, float shift, const Threshold& cut, float* dst) {
  weigh_excesses(x, count, shift, cut, dst, [](Vector u) ATTN_INLINE_LAMBDA { return u; });
}

void half_excesses_squared(const float* x, std::int64_t count, float shift, const Threshold& cut,
                           float* dst) {
  weigh_excesses(x, count, shift, cut, dst,
                 [](Vector u) ATTN_INLINE_LAMBDA { return (u * 0.5f) * (u * 0.5f); });
}
