// Transforms of runs of scores, and element types. Plain loops: each iteration stands alone, so the
// compiler vectorizes them.

void scale(const float* src, std::int64_t count, float factor, float* dst) {
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) store(dst + n, load(src + n) * factor);
  for (; n < count; ++n) dst[n] = src[n] * factor;
}

void softcap(float* scores, std::int64_t count, float cap) {
  const auto capped = [cap](Vector s) { return tanh(s / cap) * cap; };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) store(scores + n, capped(load(scores + n)));
  for (; n < count; ++n) scores[n] = capped(broadcast(scores[n]))[0];
}

/// 1 / (1 + exp(-(s + bias))) by exp(-|s + bias|): small weights keep all of their digits.
void sigmoid(float* scores, std::int64_t count, float bias) {
  const auto weight = [bias](Vector s) ATTN_INLINE_LAMBDA {
    const Vector x = s + bias;
    const Vector e = exp2_nonpositive(from_bits(bits_of(x) | 0x80000000u) * log2e);
    return select(x < 0.f, e, broadcast(1.f)) / (1.f + e);
  };
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) store(scores + n, weight(load(scores + n)));
  for (; n < count; ++n) scores[n] = weight(broadcast(scores[n]))[0];
}

void alibi(float* scores, std::int64_t count, float slope, std::int64_t distance) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t difference = distance - n;
    scores[n] -= slope * static_cast<float>(difference < 0 ? -difference : difference);
  }
}

void add_mask(float* scores, std::int64_t count, const float* mask) {
  for (std::int64_t n = 0; n < count; ++n)
    scores[n] = mask[n] == minus_infinity ? minus_infinity : scores[n] + mask[n];
}

void hide(float* scores, std::int64_t count, const std::uint8_t* visible) {
  for (std::int64_t n = 0; n < count; ++n) scores[n] = visible[n] ? scores[n] : minus_infinity;
}

ATTN_INLINE std::uint32_t float_bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
ATTN_INLINE float bits_float(std::uint32_t x) { return __builtin_bit_cast(float, x); }

void widen_bf16(const std::uint16_t* src, std::int64_t count, float* dst) {
  for (std::int64_t n = 0; n < count; ++n) dst[n] = bits_float(std::uint32_t{src[n]} << 16);
}

void narrow_bf16(const float* src, std::int64_t count, std::uint16_t* dst) {
  for (std::int64_t n = 0; n < count; ++n) {
    const std::uint32_t bits = float_bits(src[n]);
    const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const std::uint32_t quiet_nan = bits | 0x400000;
    dst[n] =
        static_cast<std::uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded) >> 16);
  }
}

ATTN_INLINE float widen_one_f16(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
  const std::uint32_t shifted = std::uint32_t{half & 0x7fffu} << 13;
  constexpr std::uint32_t exponent = 0x0f800000;  // f16's exponent field, shifted
  if ((shifted & exponent) == exponent) return bits_float(sign | (shifted + 0x70000000));
  // Multiplying by 2^112 moves the exponent's bias and normalizes subnormals, exactly.
  return bits_float(sign | float_bits(bits_float(shifted) * 0x1p112f));
}

ATTN_INLINE std::uint16_t narrow_one_f16(float x) {
  const std::uint32_t sign = (float_bits(x) >> 16) & 0x8000;
  const std::uint32_t magnitude = float_bits(x) & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000)
    return static_cast<std::uint16_t>(sign | 0x7c00);  // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // Subnormal in f16: adding 0.5 leaves the value in units of 2^-24, rounded, in the low bits.
    return static_cast<std::uint16_t>(
        sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

#if defined(__AVX512F__)
#define ATTN_VECTORS_OF_F16
typedef __m256i F16Vector;
ATTN_INLINE Vector widen_vector(F16Vector v) { return _mm512_maskz_cvtph_ps(0xffff, v); }
ATTN_INLINE F16Vector narrow_vector(Vector v) {
  return _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__AVX2__) && defined(__F16C__)
#define ATTN_VECTORS_OF_F16
typedef __m128i F16Vector;
ATTN_INLINE Vector widen_vector(F16Vector v) { return _mm256_cvtph_ps(v); }
ATTN_INLINE F16Vector narrow_vector(Vector v) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
}
#endif

void widen_f16(const std::uint16_t* src, std::int64_t count, float* dst) {
  std::int64_t n = 0;
#if defined(ATTN_VECTORS_OF_F16)
  for (; n + vector_width <= count; n += vector_width) {
    F16Vector halves;
    __builtin_memcpy(&halves, src + n, sizeof halves);
    store(dst + n, widen_vector(halves));
  }
#endif
  for (; n < count; ++n) dst[n] = widen_one_f16(src[n]);
}

void widen_i8(const std::int8_t* src, std::int64_t count, float scale, float* dst) {
  for (std::int64_t n = 0; n < count; ++n) dst[n] = static_cast<float>(src[n]) * scale;
}

void narrow_f16(const float* src, std::int64_t count, std::uint16_t* dst) {
  std::int64_t n = 0;
#if defined(ATTN_VECTORS_OF_F16)
  for (; n + vector_width <= count; n += vector_width) {
    const F16Vector halves = narrow_vector(load(src + n));
    __builtin_memcpy(dst + n, &halves, sizeof halves);
  }
#endif
  for (; n < count; ++n) dst[n] = narrow_one_f16(src[n]);
}
