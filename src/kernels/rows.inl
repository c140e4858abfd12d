// Rows of floats: the greatest element, sums of exponentials, and what is made of them element by
// element.

inline constexpr int row_unroll = 4;  // independent accumulators, to cover latencies

/// The greatest of each lane; NaN is passed over.
struct LaneMaxima {
  Vector greatest = broadcast(minus_infinity);
  ATTN_INLINE void take(Vector v) { greatest = max(v, greatest); }
};
/// The same, and which lanes had a NaN.
struct LaneMaximaOrNan : LaneMaxima {
  Lanes unordered{};
  ATTN_INLINE void take(Vector v) {
    LaneMaxima::take(v);
    unordered |= v != v;
  }
};

template <class Maxima>
ATTN_INLINE void take_row(const float* x, std::int64_t count, Maxima (&lanes)[row_unroll]) {
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) lanes[u].take(load(x + n + u * vector_width));
  }
  for (; n + vector_width <= count; n += vector_width) lanes[0].take(load(x + n));
  if (n < count) lanes[0].take(load_first(x + n, count - n, minus_infinity));
}

template <class Maxima>
ATTN_INLINE float greatest_of(const Maxima (&lanes)[row_unroll]) {
  return max_of_lanes(
      max(max(lanes[0].greatest, lanes[1].greatest), max(lanes[2].greatest, lanes[3].greatest)));
}

float maximum_of_row(const float* x, std::int64_t count) {
  LaneMaximaOrNan lanes[row_unroll];
  take_row(x, count, lanes);
  const Lanes unordered =
      lanes[0].unordered | lanes[1].unordered | lanes[2].unordered | lanes[3].unordered;
  return max_of_lanes(select(unordered, broadcast(1.f), Vector{})) > 0 ? __builtin_nanf("")
                                                                       : greatest_of(lanes);
}

void maxima_of_rows(const FloatRows& x, float* maxima) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    LaneMaxima lanes[row_unroll];
    take_row(x.data + r * x.stride, x.count, lanes);
    maxima[r] = greatest_of(lanes);
  }
}

/// As many doubles as fill a vector.
typedef double Doubles __attribute__((vector_size(vector_width * 4)));
inline constexpr int doubles_width = vector_width / 2;

template <int Half>
ATTN_INLINE Doubles half_as_doubles(Vector v) {
  const auto half =
      part_of<Half * doubles_width, doubles_width>(v, std::make_index_sequence<doubles_width>{});
#if defined(__AVX512F__)
  return _mm512_maskz_cvtps_pd(0xff, half);  // left to itself, GCC 12 converts quarters
#else
  return __builtin_convertvector(half, Doubles);
#endif
}
ATTN_INLINE Doubles sum_of_halves(Vector v) {
  return half_as_doubles<0>(v) + half_as_doubles<1>(v);
}

/// Halves upon halves, the same for every run.
template <int Width = doubles_width, class From>
ATTN_INLINE double sum_of_doubles(From v) {
  if constexpr (Width == 2) {
    return v[0] + v[1];
  } else {
    constexpr auto half = std::make_index_sequence<Width / 2>{};
    return sum_of_doubles<Width / 2>(part_of<0, Width / 2>(v, half) +
                                     part_of<Width / 2, Width / 2>(v, half));
  }
}

/// A sum of numbers in [0, 2) in each lane, with what each addition rounds off: beginning at 2, a
/// sum is never less than what is added to it, so that two subtractions find that exactly (Dekker
/// 1971).
struct ExactSum {
  static constexpr float begin = 2;
  Vector sum = broadcast(begin);
  Vector lost{};

  ATTN_INLINE void add(Vector v) {
    const Vector more = sum + v;
    lost += v - (more - sum);
    sum = more;
  }
};

/// Elements after which sums go on in double, before what was lost is so much that it loses digits
/// itself.
inline constexpr std::int64_t sum_block = 256 * vector_width;

/// What comes from memory is read once, a few thousand elements at a time: for their maxima, and
/// again for their sums, while memory would be idle. So the next ones are asked for then; half as
/// many where L1 keeps terms too. Past a row's end lies the next row, or nothing that matters.
inline constexpr std::int64_t elements_ahead = 4096;

inline constexpr int sums_at_once = 2;

/// Adds terms to the sums by turns.
template <bool Moved, bool Stored, class Sum>
ATTN_INLINE void add_terms(const float* x, std::int64_t count, const ExpReduction& e, float* terms,
                           Sum (&sums)[sums_at_once]) {
  constexpr std::int64_t ahead = Stored ? elements_ahead / 2 : elements_ahead;
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    Vector v[row_unroll];
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) {
      v[u] = load(x + n + u * vector_width);
      __builtin_prefetch(x + n + u * vector_width + ahead, 0, 2);
    }
    exp_of_row<Moved>(v, e);
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) {
      if constexpr (Stored) store(terms + n + u * vector_width, v[u]);
      sums[u % sums_at_once].add(v[u]);
    }
  }
  for (; n + vector_width <= count; n += vector_width) {
    const Vector term = exp_of_row<Moved>(load(x + n), e);
    if constexpr (Stored) store(terms + n, term);
    sums[0].add(term);
  }
  if (n < count) {
    const Vector term = exp_of_row<Moved>(load_first(x + n, count - n, minus_infinity), e);
    if constexpr (Stored) store_first(terms + n, count - n, term);
    sums[1].add(term);
  }
}

template <bool Moved, bool Stored>
ATTN_INLINE Doubles sum_terms_of_block(const float* x, std::int64_t count, const ExpReduction& e,
                                       float* terms) {
  ExactSum sums[sums_at_once];
  add_terms<Moved, Stored>(x, count, e, terms, sums);
  // Without rounding but for what was lost, of which digits enough are left.
  return (sum_of_halves(sums[0].sum - ExactSum::begin) +
          sum_of_halves(sums[1].sum - ExactSum::begin)) +
         sum_of_halves(sums[0].lost + sums[1].lost);
}

/// Of so few elements that adding them up in double takes fewer steps than ending an ExactSum does.
inline constexpr std::int64_t short_row = 2 * row_unroll * vector_width;

struct DoubleSum {
  Doubles sum{};
  ATTN_INLINE void add(Vector v) { sum += sum_of_halves(v); }
};

template <bool Moved, bool Stored>
ATTN_INLINE Doubles sum_terms_of_short_row(const float* x, std::int64_t count,
                                           const ExpReduction& e, float* terms) {
  DoubleSum sums[sums_at_once];
  add_terms<Moved, Stored>(x, count, e, terms, sums);
  return sums[0].sum + sums[1].sum;
}

template <bool Moved, bool Stored>
ATTN_INLINE Doubles sum_terms_of_row(const float* x, std::int64_t count, const ExpReduction& e,
                                     float* terms) {
  const ExpReduction here = e;  // stores to terms cannot change a copy
  if (count <= short_row) return sum_terms_of_short_row<Moved, Stored>(x, count, here, terms);
  Doubles lanes{};
  for (std::int64_t n = 0; n < count; n += sum_block) {
    const std::int64_t size = count - n < sum_block ? count - n : sum_block;
    lanes += sum_terms_of_block<Moved, Stored>(x + n, size, here, Stored ? terms + n : nullptr);
  }
  return lanes;
}

/// Lanes of all rows are added up at last, as that is a chain of steps in each row.
template <bool Stored>
void sum_terms_of_rows(const FloatRows& x, const ExpReduction* exponentials,
                       const FloatRowsOut& terms, double* sums) {
  Doubles lanes[rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const float* const row = x.data + r * x.stride;
    float* const to = Stored ? terms.data + r * terms.stride : nullptr;
    const ExpReduction& e = exponentials[r];
    lanes[r] = e.moved ? sum_terms_of_row<true, Stored>(row, x.count, e, to)
                       : sum_terms_of_row<false, Stored>(row, x.count, e, to);
  }
  for (std::int64_t r = 0; r < x.rows; ++r) sums[r] = sum_of_doubles(lanes[r]);
}

void sum_terms(const FloatRows& x, const ExpReduction* exponentials, const FloatRowsOut& terms,
               double* sums) {
  terms.data == nullptr ? sum_terms_of_rows<false>(x, exponentials, terms, sums)
                        : sum_terms_of_rows<true>(x, exponentials, terms, sums);
}

/// y = f(x), vector by vector; y may be x.
template <class F>
ATTN_INLINE void map_row(const float* x, std::int64_t count, float* y, F f) {
  constexpr std::int64_t at_once = row_unroll * vector_width;
  std::int64_t n = 0;
  for (; n + at_once <= count; n += at_once) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u)
        store(y + n + u * vector_width, f(load(x + n + u * vector_width)));
  }
  for (; n + vector_width <= count; n += vector_width) store(y + n, f(load(x + n)));
  if (n < count) store_first(y + n, count - n, f(load_first(x + n, count - n, 0)));
}

/// v * k, rounded about once.
ATTN_INLINE Vector scaled(Vector v, const SplitFloat& k) {
#if defined(ATTN_FUSED_MULTIPLY_ADD)
  return fused_multiply_subtract(
      v, broadcast(k.high), v * -k.low);  // left to itself, a compiler may round the great product
#else
  const Vector product = v * k.high;
  return product + rest_of_product(v, k, product);
#endif
}

template <bool Moved>
void scale_terms_of_row(const float* x, std::int64_t count, const ExpReduction& e,
                        const SplitFloat& factor, float* y) {
  map_row(x, count, y, [e, factor](Vector v) ATTN_INLINE_LAMBDA {
    return scaled(exp_of_row<Moved>(v, e), factor);
  });
}

void scale_terms(const FloatRows& x, const ExpReduction* exponentials, const SplitFloat* factors,
                 const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto scale_row =
        exponentials[r].moved ? scale_terms_of_row<true> : scale_terms_of_row<false>;
    scale_row(x.data + r * x.stride, x.count, exponentials[r], factors[r], y.data + r * y.stride);
  }
}

void scale_rows(const FloatRows& x, const SplitFloat* factors, const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    map_row(x.data + r * x.stride, x.count, y.data + r * y.stride,
            [factor = factors[r]](Vector v) ATTN_INLINE_LAMBDA { return scaled(v, factor); });
  }
}

template <bool Moved>
void log_terms_of_row(const float* x, std::int64_t count, const LogTerms& terms, float* y) {
  map_row(x, count, y, [terms](Vector v) ATTN_INLINE_LAMBDA {
    if constexpr (Moved) v = (v * terms.shrink - terms.shift) * terms.stretch;
    const Vector rough = v * terms.factor.high;
    const Vector value = rest_of_product(v, terms.factor, broadcast(terms.high)) - terms.low;
    return select(rough == minus_infinity, rough - terms.high,
                  value);  // halves of it would be infinities that make a NaN
  });
}

void log_terms(const FloatRows& x, const LogTerms* terms, const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto write_row = terms[r].moved ? log_terms_of_row<true> : log_terms_of_row<false>;
    write_row(x.data + r * x.stride, x.count, terms[r], y.data + r * y.stride);
  }
}

double sum_of_row(const float* x, std::int64_t count) {
  Doubles lanes{};
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) lanes += sum_of_halves(load(x + n));
  if (n < count) lanes += sum_of_halves(load_first(x + n, count - n, 0));
  return sum_of_doubles(lanes);
}

/// Products of floats are exact in double.
ATTN_INLINE Doubles sum_of_products(Vector x, Vector y) {
  return half_as_doubles<0>(x) * half_as_doubles<0>(y) +
         half_as_doubles<1>(x) * half_as_doubles<1>(y);
}

double dot_of_rows(const float* x, const float* y, std::int64_t count) {
  Doubles lanes{};
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width)
    lanes += sum_of_products(load(x + n), load(y + n));
  if (n < count)
    lanes += sum_of_products(load_first(x + n, count - n, 0), load_first(y + n, count - n, 0));
  return sum_of_doubles(lanes);
}

/// dx = f(dy, y), vector by vector.
template <class F>
ATTN_INLINE void map_gradient(const RowGradient& g, float* dx, F f) {
  std::int64_t n = 0;
  for (; n + vector_width <= g.count; n += vector_width)
    store(dx + n, f(load(g.dy + n), load(g.y + n)));
  if (n < g.count)
    store_first(dx + n, g.count - n,
                f(load_first(g.dy + n, g.count - n, 0), load_first(g.y + n, g.count - n, 0)));
}

void softmax_gradient(const RowGradient& g, float* dx) {
  map_gradient(g, dx,
               [sum = g.sum, temperature = g.temperature](Vector dy, Vector y)
                   ATTN_INLINE_LAMBDA { return y * (dy - sum) / temperature; });
}

void log_softmax_gradient(const RowGradient& g, float* dx) {
  map_gradient(g, dx,
               [sum = g.sum, temperature = g.temperature](Vector dy, Vector y)
                   ATTN_INLINE_LAMBDA { return (dy - exp_nonpositive(y) * sum) / temperature; });
}

inline constexpr RowKernels row_kernels = {
    .maximum = maximum_of_row,
    .maxima = maxima_of_rows,
    .sum_terms = sum_terms,
    .scale_terms = scale_terms,
    .scale = scale_rows,
    .log_terms = log_terms,
    .sum = sum_of_row,
    .dot = dot_of_rows,
    .softmax_gradient = softmax_gradient,
    .log_softmax_gradient = log_softmax_gradient,
};
