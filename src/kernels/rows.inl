// Rows of floats: the greatest element, sums of exponentials, and what is made of them element by element.

inline constexpr int row_unroll = 4;  // independent accumulators, to cover latencies

float maximum_of_row(const float* x, std::int64_t count) {
  Vector greatest[row_unroll];
  for (Vector& g : greatest) g = broadcast(minus_infinity);
  Lanes unordered{};
  const auto take = [&](int u, Vector v) ATTN_INLINE_LAMBDA {
    greatest[u] = max(v, greatest[u]);
    unordered |= v != v;
  };
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) take(u, load(x + n + u * vector_width));
  }
  for (; n + vector_width <= count; n += vector_width) take(0, load(x + n));
  if (n < count) take(0, load_first(x + n, count - n, minus_infinity));
  const float maximum = max_of_lanes(max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3])));
  return max_of_lanes(select(unordered, broadcast(1.f), Vector{})) > 0 ? __builtin_nanf("") : maximum;
}

/// A sum of numbers in [0, 2) in each lane, with what each addition rounds off: beginning at 2, a sum is never less than what is
/// added to it, so that two subtractions find that exactly (Dekker 1971).
struct ExactSum {
  static constexpr float begin = 2;
  Vector sum = broadcast(begin);
  Vector lost{};

  ATTN_INLINE void add(Vector v) {
    const Vector more = sum + v;
    lost += v - (more - sum);
    sum = more;
  }
  ATTN_INLINE void add_to(double* lanes) const {
    for (int lane = 0; lane < vector_width; ++lane) lanes[lane] += (double{sum[lane]} - begin) + double{lost[lane]};
  }
};

/// Elements after which sums go on in double, before what was lost is so much that it loses digits itself.
inline constexpr std::int64_t sum_block = 256 * vector_width;

/// A row that comes from memory is read once, a few thousand elements at a time: for their maximum, and again for their sum, while
/// memory would be idle. So the next ones are asked for then. Past the row's end lies the next row, or nothing that matters.
inline constexpr std::int64_t elements_ahead = 4096;

template <bool Moved, bool Stored>
ATTN_INLINE void sum_terms_of_block(const float* x, std::int64_t count, const Exponential& e, float* terms, double* lanes) {
  constexpr int sums_at_once = 2;
  ExactSum sums[sums_at_once];
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    Vector v[row_unroll];
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) {
      v[u] = load(x + n + u * vector_width);
      if constexpr (!Stored) __builtin_prefetch(x + n + u * vector_width + elements_ahead, 0, 2);
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
  ATTN_UNROLL for (const ExactSum& sum : sums) sum.add_to(lanes);
}

/// Halves upon halves, the same for every run.
ATTN_INLINE double sum_of_lanes(double (&lanes)[vector_width]) {
  ATTN_UNROLL for (int half = vector_width / 2; half > 0; half /= 2) {
    ATTN_UNROLL for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <bool Moved, bool Stored>
double sum_terms_of_row(const float* x, std::int64_t count, const Exponential& e, float* terms) {
  const Exponential here = e;  // stores to terms cannot change a copy
  double lanes[vector_width] = {};
  for (std::int64_t n = 0; n < count; n += sum_block) {
    const std::int64_t size = count - n < sum_block ? count - n : sum_block;
    sum_terms_of_block<Moved, Stored>(x + n, size, here, Stored ? terms + n : nullptr, lanes);
  }
  return sum_of_lanes(lanes);
}

double sum_terms(const float* x, std::int64_t count, const Exponential& e, float* terms) {
  if (terms == nullptr) {
    return e.moved ? sum_terms_of_row<true, false>(x, count, e, terms) : sum_terms_of_row<false, false>(x, count, e, terms);
  }
  return e.moved ? sum_terms_of_row<true, true>(x, count, e, terms) : sum_terms_of_row<false, true>(x, count, e, terms);
}

/// y = f(x), vector by vector; y may be x.
template <class F>
ATTN_INLINE void map_row(const float* x, std::int64_t count, float* y, F f) {
  constexpr std::int64_t at_once = row_unroll * vector_width;
  std::int64_t n = 0;
  for (; n + at_once <= count; n += at_once) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) store(y + n + u * vector_width, f(load(x + n + u * vector_width)));
  }
  for (; n + vector_width <= count; n += vector_width) store(y + n, f(load(x + n)));
  if (n < count) store_first(y + n, count - n, f(load_first(x + n, count - n, 0)));
}

/// v * k, rounded about once.
ATTN_INLINE Vector scaled(Vector v, const Factor& k) {
#if defined(ATTN_FUSED_MULTIPLY_ADD)
  return fused_multiply_subtract(v, broadcast(k.high), v * -k.low);  // left to itself, a compiler may round the great product
#else
  const Vector product = v * k.high;
  return product + rest_of_product(v, k, product);
#endif
}

template <bool Moved>
void scale_terms_of_row(const float* x, std::int64_t count, const Exponential& e, const Factor& factor, float* y) {
  map_row(x, count, y, [e, factor](Vector v) ATTN_INLINE_LAMBDA { return scaled(exp_of_row<Moved>(v, e), factor); });
}

void scale_terms(const float* x, std::int64_t count, const Exponential& e, const Factor& factor, float* y) {
  e.moved ? scale_terms_of_row<true>(x, count, e, factor, y) : scale_terms_of_row<false>(x, count, e, factor, y);
}

void scale_row(const float* x, std::int64_t count, const Factor& factor, float* y) {
  map_row(x, count, y, [factor](Vector v) ATTN_INLINE_LAMBDA { return scaled(v, factor); });
}

template <bool Moved>
void log_terms_of_row(const float* x, std::int64_t count, const LogTerms& terms, float* y) {
  map_row(x, count, y, [terms](Vector v) ATTN_INLINE_LAMBDA {
    if constexpr (Moved) v = (v * terms.shrink - terms.shift) * terms.stretch;
    const Vector rough = v * terms.factor.high;
    const Vector value = rest_of_product(v, terms.factor, broadcast(terms.high)) - terms.low;
    return select(rough == minus_infinity, rough - terms.high, value);  // halves of it would be infinities that make a NaN
  });
}

void log_terms(const float* x, std::int64_t count, const LogTerms& terms, float* y) {
  terms.moved ? log_terms_of_row<true>(x, count, terms, y) : log_terms_of_row<false>(x, count, terms, y);
}

/// The sum of value(n) in double, in as many lanes as floats have, so that its order is fixed and yet vectors can take it.
template <class Value>
ATTN_INLINE double sum_in_lanes(std::int64_t count, Value value) {
  double lanes[vector_width] = {};
  std::int64_t n = 0;
  for (; n + vector_width <= count; n += vector_width) {
    for (int lane = 0; lane < vector_width; ++lane) lanes[lane] += value(n + lane);
  }
  for (; n < count; ++n) lanes[n % vector_width] += value(n);
  return sum_of_lanes(lanes);
}

double sum_of_row(const float* x, std::int64_t count) {
  return sum_in_lanes(count, [x](std::int64_t n) ATTN_INLINE_LAMBDA { return double{x[n]}; });
}

double dot_of_rows(const float* x, const float* y, std::int64_t count) {
  return sum_in_lanes(count, [x, y](std::int64_t n) ATTN_INLINE_LAMBDA { return double{x[n]} * double{y[n]}; });
}

/// dx = f(dy, y), vector by vector.
template <class F>
ATTN_INLINE void map_gradient(const RowGradient& g, float* dx, F f) {
  std::int64_t n = 0;
  for (; n + vector_width <= g.count; n += vector_width) store(dx + n, f(load(g.dy + n), load(g.y + n)));
  if (n < g.count) store_first(dx + n, g.count - n, f(load_first(g.dy + n, g.count - n, 0), load_first(g.y + n, g.count - n, 0)));
}

void softmax_gradient(const RowGradient& g, float* dx) {
  map_gradient(g, dx,
               [sum = g.sum, temperature = g.temperature](Vector dy, Vector y) ATTN_INLINE_LAMBDA { return y * (dy - sum) / temperature; });
}

void log_softmax_gradient(const RowGradient& g, float* dx) {
  map_gradient(g, dx, [sum = g.sum, temperature = g.temperature](Vector dy, Vector y) ATTN_INLINE_LAMBDA {
    return (dy - exp_nonpositive(y) * sum) / temperature;
  });
}

inline constexpr RowKernels row_kernels = {
    .maximum = maximum_of_row,
    .sum_terms = sum_terms,
    .scale_terms = scale_terms,
    .scale = scale_row,
    .log_terms = log_terms,
    .sum = sum_of_row,
    .dot = dot_of_rows,
    .softmax_gradient = softmax_gradient,
    .log_softmax_gradient = log_softmax_gradient,
};
