// Multiplication of bf16 pairs into f32, where the instruction set has it. An instruction rounds no
// product and flushes subnormals; P is rounded to nearest even on its way into a word.

struct Bf16 {
  static ATTN_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

/// Rounded, into half the space: weight j takes the place of score j / 2, which has been read by
/// then.
struct Bf16Weights {
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  template <class Weigh>
  static ATTN_INLINE Vector make(float* row, std::int64_t j, Weigh weigh) {
    static_assert(chunk_width == vector_width);
    const Vector low = weigh(load(row + j)), high = weigh(load(row + j + vector_width));
    store(row + j / 2, reinterpret_cast<Vector>(_mm512_cvtne2ps_pbh(high, low)));
    return low + high;
  }
};

typedef std::uint32_t Pair __attribute__((may_alias));

/// Two rows into words. Plain integers: the compiler vectorizes the loop.
ATTN_INLINE bool pack_finite_pair(const std::uint16_t* even, const std::uint16_t* odd,
                                  std::int64_t columns, Pair* dst) {
  const auto finite = [](std::uint32_t half) { return (half & 0x7f80u) != 0x7f80u; };
  std::uint32_t seen = 0;
  for (std::int64_t n = 0; n < columns; ++n) {
    const std::uint32_t low = even[n], high = odd[n];
    seen |= static_cast<std::uint32_t>(!finite(low)) | static_cast<std::uint32_t>(!finite(high));
    dst[n] = (finite(low) ? low : 0u) | (finite(high) ? high << 16 : 0u);
  }
  return seen == 0;
}

bool pack_finite_bf16(const void* src, std::int64_t src_stride, std::int64_t rows,
                      std::int64_t columns, float* dst, const PanelLayout& layout) {
  static constexpr std::uint16_t zeros[panel_width] = {};
  const auto* values = static_cast<const std::uint16_t*>(src);
  bool finite = true;
  for (std::int64_t n = 0; n < columns; n += layout.panel_width, dst += layout.panel_stride) {
    const std::int64_t count = columns - n < layout.panel_width ? columns - n : layout.panel_width;
    for (std::int64_t r = 0; r < rows; r += 2) {
      auto* words = reinterpret_cast<Pair*>(dst + r / 2 * layout.row_stride);
      const std::uint16_t* even = values + r * src_stride + n;
      finite &= pack_finite_pair(even, r + 1 < rows ? even + src_stride : zeros, count, words);
      for (std::int64_t pad = count; pad < round_up(count); ++pad) words[pad] = 0;
    }
  }
  return finite;
}

inline constexpr Arithmetic bf16_arithmetic = {.vnni_factor = 2,
                                               .chunk_keys = 2 * chunk_width,
                                               .matmul = matmul<Bf16>,
                                               .online_softmax = online_softmax<Bf16Weights>,
                                               .pack_finite = pack_finite_bf16};

/// Keys as pairs, for queries that are bf16 as well: half the multiply-adds of widened ones.
struct Bf16Pairs {
  using Element = std::uint16_t;
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  static ATTN_INLINE Vector load(const Element* from) {
    Vector pairs;
    __builtin_memcpy(&pairs, from, sizeof pairs);
    return pairs;
  }
};

struct I8Pairs {
  using Element = std::int8_t;
  using Operand = Bf16;
  static constexpr int vnni_factor = 2;
  static ATTN_INLINE Vector load(const Element* from) {
    const Vector low = StoredI8::load(from), high = StoredI8::load(from + vector_width);
    return reinterpret_cast<Vector>(_mm512_cvtne2ps_pbh(high, low));
  }
};

template <class Stored, class Pairs>
inline constexpr StoredArithmetic stored_arithmetic_with_pairs = {
    .scores = stored_scores<Stored>,
    .scores_of_bf16 = stored_scores<Pairs>,
    .add_values = stored_add_values<Stored>};
inline constexpr StoredArithmetic stored_bf16 = stored_arithmetic_with_pairs<StoredBf16, Bf16Pairs>;
inline constexpr StoredArithmetic stored_i8 = stored_arithmetic_with_pairs<StoredI8, I8Pairs>;
