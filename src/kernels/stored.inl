// Few rows of queries against keys and values where they lie, at the speed of memory. A key is
// multiplied with all rows while it is in registers, by dot products along the head dim, so that
// nothing need be transposed; a value likewise, by broadcast weights.
//
// With 4 rows and a head dim of 128 a key and its value take 2 * 4 * 8 multiply-adds and some 20
// other instructions on AVX-512: less than half of the time in which memory delivers them as f32.

/// Elements that are widened to floats, a vector of them at a time.
struct Widened {
  using Operand = F32;
  static constexpr int vnni_factor = 1;
};

struct StoredF32 : Widened {
  using Element = float;
  static ATTN_INLINE Vector load(const Element* from) {
    return *reinterpret_cast<const UnalignedVector*>(from);
  }
};

struct StoredBf16 : Widened {
  using Element = std::uint16_t;
  static ATTN_INLINE Vector load(const Element* from) {
#if defined(__AVX512F__)
    const __m512i bits = _mm512_maskz_cvtepu16_epi32(
        0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    const __m256i bits =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    typedef Element Halves __attribute__((vector_size(vector_width * 2)));
    Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    const Bits bits = __builtin_convertvector(halves, Bits);
#endif
    return from_bits(reinterpret_cast<Bits>(bits) << 16);
  }
};

struct StoredF16 : Widened {
  using Element = std::uint16_t;
  static ATTN_INLINE Vector load(const Element* from) {
#if defined(ATTN_VECTORS_OF_F16)
    F16Vector halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    return widen_vector(halves);
#else
    Vector v;
    for (int lane = 0; lane < vector_width; ++lane) v[lane] = widen_one_f16(from[lane]);
    return v;
#endif
  }
};

struct StoredI8 : Widened {
  using Element = std::int8_t;
  static ATTN_INLINE Vector load(const Element* from) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtepi32_ps(
        0xffff, _mm512_maskz_cvtepi8_epi32(
                    0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    Vector v;
    for (int lane = 0; lane < vector_width; ++lane) v[lane] = static_cast<float>(from[lane]);
    return v;
#endif
  }
};

/// The last elements of a row that is no whole number of vectors.
template <class Stored>
ATTN_INLINE Vector load_first(const typename Stored::Element* from, std::int64_t count) {
  typename Stored::Element padded[vector_width * Stored::vnni_factor] = {};
  for (std::int64_t n = 0; n < count; ++n) padded[n] = from[n];
  return Stored::load(padded);
}

/// Evenly spaced rows. Addresses in a loop come from few registers: more would spill.
struct EvenRows {
  const std::byte* first;
  std::int64_t stride;

  template <int Row>
  ATTN_INLINE const std::byte* at(std::int64_t offset) const {
    return first + offset + Row * stride;
  }
};

/// `count` rows to bring nearer while rows from `index` on are read; if there are less, those that
/// are read, which costs nothing.
ATTN_INLINE EvenRows prefetch_rows(const PrefetchRows& ahead, std::int64_t index,
                                   std::int64_t count, const EvenRows& themselves) {
  return index + count <= ahead.count ? EvenRows{ahead.data + index * ahead.stride, ahead.stride}
                                      : themselves;
}

inline constexpr std::int64_t line_size = 64;  // of the cache, in bytes

/// Requests are spread evenly among multiply-adds: in bursts they fill the processor's queue of
/// misses, and everything waits.
ATTN_INLINE void prefetch(const std::byte* line) { __builtin_prefetch(line, 0, 3); }

typedef float Quad __attribute__((vector_size(16)));

/// In each quad of lanes, a's elements 0 to 3 and b's, numbered 4 to 7, as the four numbers say.
template <int E0, int E1, int E2, int E3, std::size_t... Lane>
ATTN_INLINE Vector in_quads(Vector a, Vector b, std::index_sequence<Lane...>) {
  constexpr int picked[] = {E0, E1, E2, E3};
  return __builtin_shufflevector(a, b,
                                 (static_cast<int>(Lane) / 4 * 4 + picked[Lane % 4] % 4 +
                                  (picked[Lane % 4] < 4 ? 0 : vector_width))...);
}

template <int First, int Count, class From, std::size_t... Lane>
ATTN_INLINE auto part_of(From v, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(v, v, (First + static_cast<int>(Lane))...);
}

template <int Width, class From>
ATTN_INLINE Quad fold_quads(From v) {
  if constexpr (Width == 4) {
    return v;
  } else {
    constexpr auto half = std::make_index_sequence<Width / 2>{};
    return fold_quads<Width / 2>(part_of<0, Width / 2>(v, half) +
                                 part_of<Width / 2, Width / 2>(v, half));
  }
}

/// In each quad of lanes, what has to be added up to the sums of the lanes of a, b, c and d.
ATTN_INLINE Vector quads_of_sums(Vector a, Vector b, Vector c, Vector d) {
  constexpr auto lanes = std::make_index_sequence<vector_width>{};
  const Vector ab = in_quads<0, 1, 4, 5>(a, b, lanes) + in_quads<2, 3, 6, 7>(a, b, lanes);
  const Vector cd = in_quads<0, 1, 4, 5>(c, d, lanes) + in_quads<2, 3, 6, 7>(c, d, lanes);
  return in_quads<0, 2, 4, 6>(ab, cd, lanes) + in_quads<1, 3, 5, 7>(ab, cd, lanes);
}

/// Keys that are multiplied together, and the rows that there are accumulators for.
inline constexpr int keys_at_once = 4;
inline constexpr int stored_rows = vector_width > 8 ? 6 : 2;

/// Scores of four neighboring keys with each of the rows, four to a quad.
template <class Stored, int Rows, std::size_t... Key>
ATTN_INLINE void multiply_keys(const StoredScoresTile& tile, const float* q, const EvenRows& keys,
                               const EvenRows& ahead, Quad (&scores)[Rows],
                               std::index_sequence<Key...>) {
  using Element = typename Stored::Element;
  Vector sums[Rows][keys_at_once] = {};
  const auto step = [&](std::int64_t d, auto load_key) ATTN_INLINE_LAMBDA {
    const std::int64_t offset = d * static_cast<std::int64_t>(sizeof(Element));
    if (offset % line_size == 0) (prefetch(ahead.template at<static_cast<int>(Key)>(offset)), ...);
    const Vector key[keys_at_once] = {load_key(
        reinterpret_cast<const Element*>(keys.template at<static_cast<int>(Key)>(offset)))...};
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector x = load(q + r * tile.q_stride + d / Stored::vnni_factor);
      ATTN_UNROLL for (int i = 0; i < keys_at_once; ++i) sums[r][i] =
          Stored::Operand::multiply_add(x, key[i], sums[r][i]);
    }
  };
  constexpr std::int64_t per_vector = vector_width * Stored::vnni_factor;
  const std::int64_t rest = tile.keys.width % per_vector, whole = tile.keys.width - rest;
  for (std::int64_t d = 0; d < whole; d += per_vector) step(d, Stored::load);
  if (rest > 0)
    step(whole,
         [rest](const auto* from) ATTN_INLINE_LAMBDA { return load_first<Stored>(from, rest); });
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    scores[r] =
        fold_quads<vector_width>(quads_of_sums(sums[r][0], sums[r][1], sums[r][2], sums[r][3]));
  }
}

template <class Stored, int Rows>
void score_rows(const StoredScoresTile& tile, std::int64_t first_row, const PrefetchRows& ahead) {
  constexpr auto each_key = std::make_index_sequence<keys_at_once>{};
  const float* const q = tile.q + first_row * tile.q_stride;
  float* const to = tile.scores + first_row * tile.stride;
  const std::int64_t stride = tile.keys.stride, count = tile.keys.count;
  Quad scores[Rows];
  std::int64_t j = 0;
  for (; j + keys_at_once <= count; j += keys_at_once) {
    const EvenRows keys{tile.keys.data + j * stride, stride};
    multiply_keys<Stored, Rows>(tile, q, keys, prefetch_rows(ahead, j, keys_at_once, keys), scores,
                                each_key);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r)
        __builtin_memcpy(to + r * tile.stride + j, &scores[r], sizeof(Quad));
  }
  for (; j < count; ++j) {  // four times the same key
    const EvenRows key{tile.keys.data + j * stride, 0};
    multiply_keys<Stored, Rows>(tile, q, key, prefetch_rows(ahead, j, 1, key), scores, each_key);
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) to[r * tile.stride + j] = scores[r][0];
  }
}

template <class Stored, std::size_t... Index>
ATTN_INLINE auto score_rows_function(std::int64_t rows, std::index_sequence<Index...>) {
  using Function = void (*)(const StoredScoresTile&, std::int64_t, const PrefetchRows&);
  static constexpr Function functions[] = {score_rows<Stored, static_cast<int>(Index) + 1>...};
  return functions[rows - 1];
}

/// Dequantizes: a row's scale is the same for all of its elements.
ATTN_INLINE void multiply_by_scales(const StoredRows& stored, float* row, std::int64_t stride,
                                    std::int64_t rows) {
  if (stored.scales == nullptr) return;
  for (std::int64_t r = 0; r < rows; ++r, row += stride) {
    if (stored.scale_stride == 1) {
      for (std::int64_t j = 0; j < stored.count; ++j) row[j] *= stored.scales[j];
    } else {
      for (std::int64_t j = 0; j < stored.count; ++j)
        row[j] *= stored.scales[j * stored.scale_stride];
    }
  }
}

template <class Stored>
void stored_scores(const StoredScoresTile& tile) {
  for (std::int64_t first = 0; first < tile.rows; first += stored_rows) {
    const std::int64_t rows = tile.rows - first < stored_rows ? tile.rows - first : stored_rows;
    const auto function =
        score_rows_function<Stored>(rows, std::make_index_sequence<stored_rows>{});
    function(tile, first, first == 0 ? tile.ahead : PrefetchRows{});
  }
  multiply_by_scales(tile.keys, tile.scores, tile.stride, tile.rows);
}

/// Values [first, last) times their weights, for the columns from n on. Rest: lanes of the one
/// vector that is not whole, or 0.
template <class Stored, int Rows, int Vectors, bool Whole>
void add_columns(const StoredValuesTile& tile, std::int64_t first, std::int64_t last,
                 std::int64_t n) {
  using Element = typename Stored::Element;
  constexpr auto size = static_cast<std::int64_t>(sizeof(Element));
  float* const out = tile.out + n;
  const std::int64_t rest = tile.values.width - n;
  Vector sums[Rows][Vectors];
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] =
        load(out + r * tile.out_stride + v * vector_width);
  }
  for (std::int64_t j = first; j < last; ++j) {
    const std::byte* const row = tile.values.data + j * tile.values.stride + n * size;
    const std::byte* const ahead =
        j < tile.ahead.count ? tile.ahead.data + j * tile.ahead.stride + n * size : row;
    const auto* const value = reinterpret_cast<const Element*>(row);
    Vector x[Vectors];
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v) {
      if (v * vector_width * size % line_size == 0) prefetch(ahead + v * vector_width * size);
      x[v] = Whole ? Stored::load(value + v * vector_width) : load_first<Stored>(value, rest);
    }
    ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
      const Vector weight = broadcast(tile.weights[r * tile.stride + j]);
      ATTN_UNROLL for (int v = 0; v < Vectors; ++v) sums[r][v] += weight * x[v];
    }
  }
  ATTN_UNROLL for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL for (int v = 0; v < Vectors; ++v)
        store(out + r * tile.out_stride + v * vector_width, sums[r][v]);
  }
}

template <class Stored, int Rows>
void add_chunk(const StoredValuesTile& tile, std::int64_t first, std::int64_t last) {
  const std::int64_t whole = round_down(tile.values.width);
  std::int64_t n = 0;
  for (; n + panel_width <= whole; n += panel_width)
    add_columns<Stored, Rows, panel_vectors, true>(tile, first, last, n);
  if constexpr (panel_vectors > 2) {
    if (n + 2 * vector_width <= whole) {
      add_columns<Stored, Rows, 2, true>(tile, first, last, n);
      n += 2 * vector_width;
    }
  }
  if (n < whole) {
    add_columns<Stored, Rows, 1, true>(tile, first, last, n);
    n += vector_width;
  }
  if (n < tile.values.width) add_columns<Stored, Rows, 1, false>(tile, first, last, n);
}

template <class Stored, std::size_t... Index>
ATTN_INLINE auto add_chunk_function(std::int64_t rows, std::index_sequence<Index...>) {
  using Function = void (*)(const StoredValuesTile&, std::int64_t, std::int64_t);
  static constexpr Function functions[] = {add_chunk<Stored, static_cast<int>(Index) + 1>...};
  return functions[rows - 1];
}

template <class Stored>
void stored_add_values(const StoredValuesTile& tile) {
  constexpr std::int64_t chunk = 16;  // values, so that those of all columns stay in L1
  multiply_by_scales(tile.values, tile.weights, tile.stride, tile.rows);
  const auto function =
      add_chunk_function<Stored>(tile.rows, std::make_index_sequence<tile_rows>{});
  for (std::int64_t first = 0; first < tile.values.count; first += chunk) {
    const std::int64_t last = first + chunk < tile.values.count ? first + chunk : tile.values.count;
    function(tile, first, last);
  }
}

template <class Stored>
inline constexpr StoredArithmetic stored_arithmetic = {.scores = stored_scores<Stored>,
                                                       .scores_of_bf16 = nullptr,
                                                       .add_values = stored_add_values<Stored>};
