// Vectors of floats in the compiler's vector extensions, as wide as the instruction set that the
// including file is compiled for. Only what the extensions do not give is an intrinsic; an
// instruction set without a section here takes the plain form.

#if defined(__AVX512F__)
inline constexpr int vector_width = 16;
inline constexpr int panel_vectors = 4;  // 6 x 4 accumulators of 32 registers
#elif defined(__AVX2__)
inline constexpr int vector_width = 8;
inline constexpr int panel_vectors = 2;  // 6 x 2 accumulators of 16 registers
#elif defined(__aarch64__)
inline constexpr int vector_width = 4;
inline constexpr int panel_vectors = 4;
#else
inline constexpr int vector_width = 4;
inline constexpr int panel_vectors = 2;
#endif
inline constexpr int panel_width = vector_width * panel_vectors;

typedef float Vector __attribute__((vector_size(vector_width * 4)));
typedef std::int32_t Lanes
    __attribute__((vector_size(vector_width * 4)));  // of a comparison: -1 where it holds, else 0
typedef std::uint32_t Bits __attribute__((vector_size(vector_width * 4)));
typedef float UnalignedVector __attribute__((vector_size(vector_width * 4), aligned(4), may_alias));

typedef float Word __attribute__((may_alias));  // a float, or whatever else has 32 bits

#define ATTN_INLINE __attribute__((always_inline)) inline
#define ATTN_INLINE_LAMBDA __attribute__((always_inline))
/// Spells a short loop out before the compiler decides what lives in registers.
#define ATTN_UNROLL _Pragma("GCC unroll 16")
/// Keeps a loop a loop, where copies of its body would cost registers.
#define ATTN_NO_UNROLL _Pragma("GCC unroll 1")

ATTN_INLINE Vector load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}
ATTN_INLINE void store(float* to, Vector v) { *reinterpret_cast<UnalignedVector*>(to) = v; }
ATTN_INLINE Vector broadcast(float x) { return x - Vector{}; }
ATTN_INLINE Bits bits_of(Vector v) { return reinterpret_cast<Bits>(v); }
ATTN_INLINE Vector from_bits(Bits bits) { return reinterpret_cast<Vector>(bits); }
ATTN_INLINE Vector select(Lanes which, Vector a, Vector b) { return which ? a : b; }

template <std::size_t... Lane>
consteval Lanes numbered_lanes(std::index_sequence<Lane...>) {
  return Lanes{static_cast<std::int32_t>(Lane)...};
}
inline constexpr Lanes lane_numbers = numbered_lanes(std::make_index_sequence<vector_width>{});

/// b where either is NaN.
ATTN_INLINE Vector max(Vector a, Vector b) {
#if defined(__AVX512F__)
  return _mm512_mask_max_ps(a, 0xffff, a, b);  // GCC 12 warns of its own header in _mm512_max_ps
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

template <int Shift, std::size_t... Lane>
ATTN_INLINE Vector rotate(Vector v, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(v, v, ((static_cast<int>(Lane) + Shift) % vector_width)...);
}

/// Folds the lanes of v into each lane, halving: the order is the same for every run.
template <int Shift = vector_width / 2, class Fold>
ATTN_INLINE Vector fold_lanes(Vector v, Fold fold) {
  const Vector folded = fold(v, rotate<Shift>(v, std::make_index_sequence<vector_width>{}));
  if constexpr (Shift == 1) {
    return folded;
  } else {
    return fold_lanes<Shift / 2>(folded, fold);
  }
}
ATTN_INLINE float sum_of_lanes(Vector v) {
  return fold_lanes(v, [](Vector a, Vector b) { return a + b; })[0];
}
ATTN_INLINE float max_of_lanes(Vector v) {
  return fold_lanes(v, [](Vector a, Vector b) { return max(a, b); })[0];
}

ATTN_INLINE constexpr std::int64_t round_down(std::int64_t n) {
  return n & -std::int64_t{vector_width};
}
ATTN_INLINE constexpr std::int64_t round_up(std::int64_t n) {
  return round_down(n + vector_width - 1);
}

#if defined(__AVX512F__)
#define ATTN_FUSED_MULTIPLY_ADD
/// a * b - c, rounded once, where a product and a sum may be rounded each.
ATTN_INLINE Vector fused_multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm512_fmsub_ps(a, b, c);
}
#elif defined(__AVX2__) && defined(__FMA__)
#define ATTN_FUSED_MULTIPLY_ADD
ATTN_INLINE Vector fused_multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm256_fmsub_ps(a, b, c);
}
#endif

/// The first count < W elements, the others being `fill`.
ATTN_INLINE Vector load_first(const float* from, std::int64_t count, float fill) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(broadcast(fill), static_cast<__mmask16>((1u << count) - 1), from);
#else
  Vector v = broadcast(fill);
  for (std::int64_t n = 0; n < count; ++n) v[n] = from[n];
  return v;
#endif
}
ATTN_INLINE void store_first(float* to, std::int64_t count, Vector v) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), v);
#else
  for (std::int64_t n = 0; n < count; ++n) to[n] = v[n];
#endif
}
