// Multiplication of bf16 pairs into f32, where the instruction set has it. An instruction rounds no product and flushes
// subnormals; P is rounded to nearest even on its way into a word.

struct Bf16 {
  static ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

/// Rounded, into half the space: weight j takes the place of score j / 2, which has been read by then.
struct Bf16Weights {
  typedef __m256i Halves __attribute__((aligned(2), may_alias));
  static ATTN_INLINE void put(float* row, std::int64_t j, Vector p) {
    *reinterpret_cast<Halves*>(reinterpret_cast<char*>(row) + 2 * j) = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(p));
  }
  static ATTN_INLINE void clear(float* row, std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; j += vector_width) put(row, j, Vector{});
  }
};

typedef std::uint32_t Pair __attribute__((may_alias));

/// Two rows into words. Plain integers: the compiler vectorises the loop.
ATTN_INLINE bool pack_finite_pair(const std::uint16_t* even, const std::uint16_t* odd, std::int64_t columns, Pair* dst) {
  const auto finite = [](std::uint32_t half) { return (half & 0x7f80u) != 0x7f80u; };
  std::uint32_t seen = 0;
  for (std::int64_t n = 0; n < columns; ++n) {
    const std::uint32_t low = even[n], high = odd[n];
    seen |= static_cast<std::uint32_t>(!finite(low)) | static_cast<std::uint32_t>(!finite(high));
    dst[n] = (finite(low) ? low : 0u) | (finite(high) ? high << 16 : 0u);
  }
  return seen == 0;
}

bool pack_finite_bf16(const void* src, std::int64_t src_stride, std::int64_t rows, std::int64_t columns, float* dst,
                      std::int64_t dst_panel_stride) {
  static constexpr std::uint16_t zeros[panel_width] = {};
  const auto* values = static_cast<const std::uint16_t*>(src);
  bool finite = true;
  for (std::int64_t n = 0; n < columns; n += panel_width, dst += dst_panel_stride) {
    const std::int64_t count = columns - n < panel_width ? columns - n : panel_width;
    for (std::int64_t r = 0; r < rows; r += 2) {
      auto* words = reinterpret_cast<Pair*>(dst + r / 2 * panel_width);
      const std::uint16_t* even = values + r * src_stride + n;
      finite &= pack_finite_pair(even, r + 1 < rows ? even + src_stride : zeros, count, words);
      for (std::int64_t pad = count; pad < round_up(count); ++pad) words[pad] = 0;
    }
  }
  return finite;
}

inline constexpr Arithmetic bf16_arithmetic = {
    .per_word = 2, .matmul = matmul<Bf16>, .online_softmax = online_softmax<Bf16Weights>, .pack_finite = pack_finite_bf16};
