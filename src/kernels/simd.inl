// Vectors of floats, as wide as those of the instruction set that the translation unit is compiled
// for. This is the only file of the kernels with intrinsics and conditions on instruction sets.
//
// Vectors are those of the compiler's vector extensions. What the extensions lack is a function
// here, of which each instruction set has its own in a section; one without a section takes the
// plain section. What is the same for all of them is in lanes.inl.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/macros.inl"
#include "kernels/scalar.inl"

namespace attn::kernels {
namespace {

// Sizes of an instruction set: the floats of a vector, the vectors of B that a register tile of 6
// rows covers, and log2 of the number of floats that `look_up` selects from.
#if defined(__AVX512F__)
inline constexpr int vector_width = 16;
inline constexpr int panel_vectors = 4;  // 6 x 4 accumulators of 32 registers
inline constexpr int table_bits = 4;
#elif defined(__AVX2__)
inline constexpr int vector_width = 8;
inline constexpr int panel_vectors = 2;  // 6 x 2 accumulators of 16 registers
inline constexpr int table_bits = 3;
#elif defined(__aarch64__)
inline constexpr int vector_width = 4;
inline constexpr int panel_vectors = 4;  // 6 x 4 accumulators of 32 registers
inline constexpr int table_bits = 1;
#else
inline constexpr int vector_width = 4;
inline constexpr int panel_vectors = 2;  // 6 x 2 accumulators of 16 registers
inline constexpr int table_bits = 1;
#endif
inline constexpr int panel_width = vector_width * panel_vectors;
inline constexpr int double_lanes = vector_width / 2;

typedef float Vector __attribute__((vector_size(vector_width * 4)));
/// A comparison gives -1 in lanes where it holds, else 0.
typedef std::int32_t Lanes __attribute__((vector_size(vector_width * 4)));
typedef std::uint32_t Bits __attribute__((vector_size(vector_width * 4)));
/// As many bytes as a vector of floats has.
typedef std::uint8_t Bytes __attribute__((vector_size(vector_width * 4)));
typedef float UnalignedVector __attribute__((vector_size(vector_width * 4), aligned(4), may_alias));
/// Half a vector of floats, and the vector of doubles that it becomes.
typedef float HalfVector __attribute__((vector_size(vector_width * 2)));
typedef double Doubles __attribute__((vector_size(vector_width * 4)));

/// 32 bits of any type.
typedef float PackedElement __attribute__((may_alias));

ATTN_INLINE Vector load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}
ATTN_INLINE void store(float* to, Vector v) { *reinterpret_cast<UnalignedVector*>(to) = v; }
ATTN_INLINE Vector broadcast(float x) { return x - Vector{}; }
ATTN_INLINE Bits bits_of(Vector v) { return reinterpret_cast<Bits>(v); }
ATTN_INLINE Vector from_bits(Bits bits) { return reinterpret_cast<Vector>(bits); }
ATTN_INLINE Vector select(Lanes which, Vector a, Vector b) { return which ? a : b; }

/// a * b + c, rounded as it is in the lanes of a vector.
#if defined(__FMA__) || defined(__aarch64__)
ATTN_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
ATTN_INLINE double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
ATTN_INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
ATTN_INLINE double multiply_add(double a, double b, double c) { return a * b + c; }
#endif

// Each section defines:
//   max(a, b)            b where either is NaN
//   look_up(which, t)    in each lane, the element of t with the number in the low table_bits of
//                        `which`
//   load_bf16, load_f16, load_i8  a vector of elements, widened to floats
//   store_f16            rounds to nearest even
//   store_selected       stores the selected lanes of v contiguously, in a whole vector whose rest
//                        is not specified; returns how many they are
//   as_doubles           widens half a vector
//   multiply_add(a, b, c)       a * b + c, and
//   multiply_subtract(a, b, c)  a * b - c, both rounded once where has_fused_multiply_add
//
// The compiler may not fuse a product and a sum by itself (-ffp-contract=off): which of two
// products of a sum it would fuse, and whether it does so in the loop and in its remainder, differs
// between compilers, and so would the last bits of results.

#if defined(__AVX512F__)

// GCC 12 warns of its own header in unmasked forms such as _mm512_max_ps, so the masked forms are
// called with all lanes set.
inline constexpr __mmask16 all_lanes = 0xffff;

ATTN_INLINE Vector max(Vector a, Vector b) { return _mm512_mask_max_ps(a, all_lanes, a, b); }

ATTN_INLINE Vector look_up(Bits which, Vector table) {
  return _mm512_maskz_permutexvar_ps(all_lanes, reinterpret_cast<__m512i>(which), table);
}

ATTN_INLINE Vector load_bf16(const std::uint16_t* from) {
  const __m512i bits = _mm512_maskz_cvtepu16_epi32(
      all_lanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return from_bits(reinterpret_cast<Bits>(bits) << 16);
}

inline constexpr bool has_f16_conversions = true;
ATTN_INLINE Vector load_f16(const std::uint16_t* from) {
  __m256i halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return _mm512_maskz_cvtph_ps(all_lanes, halves);
}
ATTN_INLINE void store_f16(std::uint16_t* to, Vector v) {
  const __m256i halves = _mm512_maskz_cvtps_ph(all_lanes, v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(to, &halves, sizeof halves);
}

ATTN_INLINE Vector load_i8(const std::int8_t* from) {
  const __m512i integers = _mm512_maskz_cvtepi8_epi32(
      all_lanes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm512_maskz_cvtepi32_ps(all_lanes, integers);
}

ATTN_INLINE std::int64_t store_selected(float* to, Vector v, Lanes which) {
  const __mmask16 mask = _mm512_movepi32_mask(reinterpret_cast<__m512i>(which));
  store(to, _mm512_maskz_compress_ps(mask, v));
  return __builtin_popcount(mask);
}

/// GCC 12 would make two conversions of __builtin_convertvector.
ATTN_INLINE Doubles as_doubles(HalfVector half) { return _mm512_maskz_cvtps_pd(0xff, half); }

inline constexpr bool has_fused_multiply_add = true;
ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
ATTN_INLINE Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm512_fmsub_ps(a, b, c);
}
ATTN_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return _mm512_fmadd_pd(a, b, c);
}
ATTN_INLINE HalfVector multiply_add(HalfVector a, HalfVector b, HalfVector c) {
  return _mm256_fmadd_ps(a, b, c);
}

#elif defined(__AVX2__)

ATTN_INLINE Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }

ATTN_INLINE Vector look_up(Bits which, Vector table) {
  return _mm256_permutevar8x32_ps(table, reinterpret_cast<__m256i>(which));
}

ATTN_INLINE Vector load_bf16(const std::uint16_t* from) {
  const __m256i bits =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return from_bits(reinterpret_cast<Bits>(bits) << 16);
}

inline constexpr bool has_f16_conversions = true;
ATTN_INLINE Vector load_f16(const std::uint16_t* from) {
  __m128i halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return _mm256_cvtph_ps(halves);
}
ATTN_INLINE void store_f16(std::uint16_t* to, Vector v) {
  const __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  __builtin_memcpy(to, &halves, sizeof halves);
}

ATTN_INLINE Vector load_i8(const std::int8_t* from) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

ATTN_INLINE std::int64_t store_selected(float* to, Vector v, Lanes which) {
  const auto mask = static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(which)));
  // One byte for each lane: all ones where the lane is selected. Then the numbers of those lanes
  // are moved together.
  const std::uint64_t bytes = _pdep_u64(mask, 0x0101010101010101u) * 0xff;
  const std::uint64_t numbers = _pext_u64(0x0706050403020100u, bytes);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(numbers)));
  store(to, _mm256_permutevar8x32_ps(v, lanes));
  return __builtin_popcount(mask);
}

ATTN_INLINE Doubles as_doubles(HalfVector half) { return _mm256_cvtps_pd(half); }

inline constexpr bool has_fused_multiply_add = true;
ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
ATTN_INLINE Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return _mm256_fmsub_ps(a, b, c);
}
ATTN_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return _mm256_fmadd_pd(a, b, c);
}
ATTN_INLINE HalfVector multiply_add(HalfVector a, HalfVector b, HalfVector c) {
  return _mm_fmadd_ps(a, b, c);
}

#else

ATTN_INLINE Vector max(Vector a, Vector b) {
#if defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

ATTN_INLINE Vector look_up(Bits which, Vector table) {
  const std::uint32_t first = bits_of(table)[0], second = bits_of(table)[1];
  return from_bits(first ^ (-(which & 1u) & (first ^ second)));
}

ATTN_INLINE Vector load_bf16(const std::uint16_t* from) {
  typedef std::uint16_t Halves __attribute__((vector_size(vector_width * 2)));
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return from_bits(__builtin_convertvector(halves, Bits) << 16);
}

#if defined(__aarch64__)
inline constexpr bool has_f16_conversions = true;
ATTN_INLINE Vector load_f16(const std::uint16_t* from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
ATTN_INLINE void store_f16(std::uint16_t* to, Vector v) {
  vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

ATTN_INLINE Vector load_i8(const std::int8_t* from) {
  std::uint32_t bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes)))));
}
#else
inline constexpr bool has_f16_conversions = false;
ATTN_INLINE Vector load_f16(const std::uint16_t* from) {
  Vector v;
  for (int lane = 0; lane < vector_width; ++lane) v[lane] = widen_one_f16(from[lane]);
  return v;
}
ATTN_INLINE void store_f16(std::uint16_t* to, Vector v) {
  for (int lane = 0; lane < vector_width; ++lane) to[lane] = narrow_one_f16(v[lane]);
}

ATTN_INLINE Vector load_i8(const std::int8_t* from) {
  Vector v;
  for (int lane = 0; lane < vector_width; ++lane) v[lane] = static_cast<float>(from[lane]);
  return v;
}
#endif

ATTN_INLINE std::int64_t store_selected(float* to, Vector v, Lanes which) {
  std::int64_t kept = 0;
  for (int lane = 0; lane < vector_width; ++lane) {
    to[kept] = v[lane];
    kept -= which[lane];
  }
  return kept;
}

ATTN_INLINE Doubles as_doubles(HalfVector half) { return __builtin_convertvector(half, Doubles); }

#if defined(__aarch64__)
inline constexpr bool has_fused_multiply_add = true;
ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
ATTN_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return vfmaq_f64(c, a, b); }
ATTN_INLINE HalfVector multiply_add(HalfVector a, HalfVector b, HalfVector c) {
  return vfma_f32(c, a, b);
}
#else
inline constexpr bool has_fused_multiply_add = false;
ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
ATTN_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return a * b + c; }
ATTN_INLINE HalfVector multiply_add(HalfVector a, HalfVector b, HalfVector c) { return a * b + c; }
#endif
ATTN_INLINE Vector multiply_subtract(Vector a, Vector b, Vector c) {
  return multiply_add(a, b, -c);
}

#endif

// Parts of vectors: load_first(from, n, fill) loads n < W elements and fills the other lanes;
// store_first stores n < W lanes. not_below(x, bound) selects the lanes where x is at least the
// bound or NaN, and keep makes the other lanes of v 0.

#if defined(__AVX512F__)

ATTN_INLINE Vector load_first(const float* from, std::int64_t count, float fill) {
  return _mm512_mask_loadu_ps(broadcast(fill), static_cast<__mmask16>((1u << count) - 1), from);
}
ATTN_INLINE void store_first(float* to, std::int64_t count, Vector v) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), v);
}

typedef __mmask16 LaneMask;
ATTN_INLINE LaneMask not_below(Vector x, float bound) {
  return _mm512_cmp_ps_mask(x, broadcast(bound), _CMP_NLT_UQ);
}
ATTN_INLINE Vector keep(LaneMask kept, Vector v) { return _mm512_maskz_mov_ps(kept, v); }

#else

ATTN_INLINE Vector load_first(const float* from, std::int64_t count, float fill) {
  Vector v = broadcast(fill);
  for (std::int64_t n = 0; n < count; ++n) v[n] = from[n];
  return v;
}
ATTN_INLINE void store_first(float* to, std::int64_t count, Vector v) {
  for (std::int64_t n = 0; n < count; ++n) to[n] = v[n];
}

typedef Lanes LaneMask;
ATTN_INLINE LaneMask not_below(Vector x, float bound) { return ~(x < bound); }
ATTN_INLINE Vector keep(LaneMask kept, Vector v) {
  return from_bits(bits_of(v) & reinterpret_cast<Bits>(kept));
}

#endif

#if defined(__AVX512BF16__)
/// Packed pairs of bf16 can be multiplied; bf16.inl is compiled.
#define ATTN_BF16_DOT_PRODUCTS
/// sum + a0 b0 + a1 b1 in each lane. The products are exact, and subnormals count as 0.
ATTN_INLINE Vector multiply_add_bf16_pairs(Vector a, Vector b, Vector sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
/// 2 W floats, `low` first, as packed pairs, rounded to nearest even.
ATTN_INLINE Vector round_to_bf16_pairs(Vector low, Vector high) {
  return reinterpret_cast<Vector>(_mm512_cvtne2ps_pbh(high, low));
}
/// The bits of 2 W elements of bf16.
typedef std::uint16_t Halves __attribute__((vector_size(4 * vector_width)));
/// The first `count` of 2 W elements; the others are 0.
ATTN_INLINE Halves load_halves(const std::uint16_t* from, std::int64_t count) {
  const __mmask32 mask = 0xffffffffu >> (2 * vector_width - count);
  return reinterpret_cast<Halves>(_mm512_maskz_loadu_epi16(mask, from));
}
/// In each lane, the pair (first, second), rounded to nearest even.
ATTN_INLINE Vector interleave_as_bf16(Vector first, Vector second) {
  const auto widened = [](Vector v) {
    return reinterpret_cast<Bits>(
        _mm512_maskz_cvtepu16_epi32(all_lanes, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v))));
  };
  return from_bits(widened(first) | widened(second) << 16);
}
#endif

/// The lanes [First, First + Count) of a vector of any type.
template <int First, int Count, class From, std::size_t... Lane>
ATTN_INLINE auto part_of(From v, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(v, v, (First + static_cast<int>(Lane))...);
}

/// Half of v, number 0 or 1, as doubles. The form without as_doubles is that of which GCC 12 makes
/// the instructions that were measured.
template <int Half>
ATTN_INLINE Doubles half_as_doubles(Vector v) {
  const auto half =
      part_of<Half * double_lanes, double_lanes>(v, std::make_index_sequence<double_lanes>{});
#if defined(__AVX512F__)
  return as_doubles(half);
#else
  return __builtin_convertvector(half, Doubles);
#endif
}

}  // namespace
}  // namespace attn::kernels
