// Rows of floats: maxima, sums of exponentials, and elementwise functions that use them.
#pragma once

#include <cstdint>

#include "kernels/contract/rows.hpp"
#include "kernels/exp.inl"
#include "kernels/lanes.inl"

namespace attn::kernels {
namespace {

inline constexpr int row_unroll = 4;  // independent accumulators, which hide latencies

/// The maximum of each lane; NaN is ignored.
struct LaneMaxima {
  Vector maximum = broadcast(minus_infinity);
  ATTN_INLINE void update(Vector v) { maximum = max(v, maximum); }
};
/// The same, and which lanes had a NaN.
struct LaneMaximaOrNan : LaneMaxima {
  Lanes unordered{};
  ATTN_INLINE void update(Vector v) {
    LaneMaxima::update(v);
    unordered |= v != v;
  }
};

template <class Maxima>
ATTN_INLINE void update_with_row(const float* x, std::int64_t count, Maxima (&lanes)[row_unroll]) {
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) lanes[u].update(
        load(x + n + u * vector_width));
  }
  for (; n + vector_width <= count; n += vector_width) lanes[0].update(load(x + n));
  if (n < count) lanes[0].update(load_first(x + n, count - n, minus_infinity));
}

template <class Maxima>
ATTN_INLINE float maximum_of(const Maxima (&lanes)[row_unroll]) {
  return max_of_lanes(
      max(max(lanes[0].maximum, lanes[1].maximum), max(lanes[2].maximum, lanes[3].maximum)));
}

float maximum_of_row(const float* x, std::int64_t count) {
  LaneMaximaOrNan lanes[row_unroll];
  update_with_row(x, count, lanes);
  const Lanes unordered =
      lanes[0].unordered | lanes[1].unordered | lanes[2].unordered | lanes[3].unordered;
  return max_of_lanes(select(unordered, broadcast(1.f), Vector{})) > 0 ? __builtin_nanf("")
                                                                       : maximum_of(lanes);
}

void maxima_of_rows(const FloatRows& x, float* maxima) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    LaneMaxima lanes[row_unroll];
    update_with_row(x.data + r * x.stride, x.count, lanes);
    maxima[r] = maximum_of(lanes);
  }
}

/// The sum of the lanes, added in halves: the order is the same in every run.
template <int Width = double_lanes, class From>
ATTN_INLINE double sum_of_doubles(From v) {
  if constexpr (Width == 2) {
    return v[0] + v[1];
  } else {
    constexpr auto half = std::make_index_sequence<Width / 2>{};
    return sum_of_doubles<Width / 2>(part_of<0, Width / 2>(v, half) +
                                     part_of<Width / 2, Width / 2>(v, half));
  }
}

/// A sum of numbers in [0, 2) in each lane, and the sum of its rounding errors. As the sum starts
/// at 2, it is never less than the number that is added, so that two subtractions give the rounding
/// error exactly (Dekker 1971).
struct ExactSum {
  static constexpr float start = 2;
  Vector sum = broadcast(start);
  Vector lost{};

  ATTN_INLINE void add(Vector v) {
    const Vector more = sum + v;
    lost += v - (more - sum);
    sum = more;
  }
};

/// After so many elements sums continue in double, before the sum of rounding errors loses digits
/// itself.
inline constexpr std::int64_t sum_block = 256 * vector_width;

/// Callers pass a row from memory in blocks of a few thousand elements, first for the maxima and
/// then for the sums. Memory would be idle during the sums, so that is when the next block is
/// prefetched: the distance is in elements, and half as long where L1 holds the terms too.
/// Prefetches past the end of a row do no harm.
inline constexpr std::int64_t prefetch_distance = 4096;

inline constexpr int sums_at_once = 2;

/// Adds the terms of a row to the sums in turn, and stores them at `terms` if Stored.
template <bool HasShift, bool Stored, class Sum>
ATTN_INLINE void add_terms(const float* x, std::int64_t count, const ExpReduction& e, float* terms,
                           Sum (&sums)[sums_at_once]) {
  constexpr std::int64_t distance = Stored ? prefetch_distance / 2 : prefetch_distance;
  std::int64_t n = 0;
  for (; n + row_unroll * vector_width <= count; n += row_unroll * vector_width) {
    Vector v[row_unroll];
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) {
      v[u] = load(x + n + u * vector_width);
      __builtin_prefetch(x + n + u * vector_width + distance, 0, 2);
    }
    exp_terms<HasShift>(v, e);
    ATTN_UNROLL for (int u = 0; u < row_unroll; ++u) {
      if constexpr (Stored) store(terms + n + u * vector_width, v[u]);
      sums[u % sums_at_once].add(v[u]);
    }
  }
  for (; n + vector_width <= count; n += vector_width) {
    const Vector term = exp_terms<HasShift>(load(x + n), e);
    if constexpr (Stored) store(terms + n, term);
    sums[0].add(term);
  }
  if (n < count) {
    const Vector term = exp_terms<HasShift>(load_first(x + n, count - n, minus_infinity), e);
    if constexpr (Stored) store_first(terms + n, count - n, term);
    sums[1].add(term);
  }
}

template <bool HasShift, bool Stored>
ATTN_INLINE Doubles sum_terms_of_block(const float* x, std::int64_t count, const ExpReduction& e,
                                       float* terms) {
  ExactSum sums[sums_at_once];
  add_terms<HasShift, Stored>(x, count, e, terms, sums);
  // The first two conversions and their sum are exact; the rounding errors need fewer digits.
  return (sum_of_halves(sums[0].sum - ExactSum::start) +
          sum_of_halves(sums[1].sum - ExactSum::start)) +
         sum_of_halves(sums[0].lost + sums[1].lost);
}

/// Up to this length a plain double sum is cheaper than the final reduction of ExactSum.
inline constexpr std::int64_t short_row = 2 * row_unroll * vector_width;

struct DoubleSum {
  Doubles sum{};
  ATTN_INLINE void add(Vector v) { sum += sum_of_halves(v); }
};

template <bool HasShift, bool Stored>
ATTN_INLINE Doubles sum_terms_of_short_row(const float* x, std::int64_t count,
                                           const ExpReduction& e, float* terms) {
  DoubleSum sums[sums_at_once];
  add_terms<HasShift, Stored>(x, count, e, terms, sums);
  return sums[0].sum + sums[1].sum;
}

template <bool HasShift, bool Stored>
ATTN_INLINE Doubles sum_terms_of_row(const float* x, std::int64_t count, const ExpReduction& e,
                                     float* terms) {
  const ExpReduction copy = e;  // the compiler knows that stores to terms do not change a copy
  if (count <= short_row) return sum_terms_of_short_row<HasShift, Stored>(x, count, copy, terms);
  Doubles lanes{};
  for (std::int64_t n = 0; n < count; n += sum_block) {
    const std::int64_t size = count - n < sum_block ? count - n : sum_block;
    lanes += sum_terms_of_block<HasShift, Stored>(x + n, size, copy, Stored ? terms + n : nullptr);
  }
  return lanes;
}

/// The lanes of all rows are added at the end: in each row these are steps that depend on each
/// other, and those of different rows overlap.
template <bool Stored>
void sum_terms_of_rows(const FloatRows& x, const ExpReduction* exponentials,
                       const FloatRowsOut& terms, double* sums) {
  Doubles lanes[rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const float* const row = x.data + r * x.stride;
    float* const to = Stored ? terms.data + r * terms.stride : nullptr;
    const ExpReduction& e = exponentials[r];
    lanes[r] = e.has_shift ? sum_terms_of_row<true, Stored>(row, x.count, e, to)
                           : sum_terms_of_row<false, Stored>(row, x.count, e, to);
  }
  for (std::int64_t r = 0; r < x.rows; ++r) sums[r] = sum_of_doubles(lanes[r]);
}

void sum_terms(const FloatRows& x, const ExpReduction* exponentials, const FloatRowsOut& terms,
               double* sums) {
  terms.data == nullptr ? sum_terms_of_rows<false>(x, exponentials, terms, sums)
                        : sum_terms_of_rows<true>(x, exponentials, terms, sums);
}

/// y = f(x), vector by vector. f takes the 0 of lanes past the end, too. y may be x.
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

/// v * k, with hardly more error than one rounding.
ATTN_INLINE Vector scaled(Vector v, const SplitFloat& k) {
  if constexpr (has_fused_multiply_add) {
    return multiply_subtract(v, broadcast(k.high), v * -k.low);
  } else {
    const Vector product = v * k.high;
    return product + remainder_of_product(v, k, product);
  }
}

template <bool HasShift>
void scale_terms_of_row(const float* x, std::int64_t count, const ExpReduction& e,
                        const SplitFloat& factor, float* y) {
  map_row(x, count, y, [e, factor](Vector v) ATTN_INLINE_LAMBDA {
    return scaled(exp_terms<HasShift>(v, e), factor);
  });
}

void scale_terms(const FloatRows& x, const ExpReduction* exponentials, const SplitFloat* factors,
                 const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto scale_row =
        exponentials[r].has_shift ? scale_terms_of_row<true> : scale_terms_of_row<false>;
    scale_row(x.data + r * x.stride, x.count, exponentials[r], factors[r], y.data + r * y.stride);
  }
}

void scale_rows(const FloatRows& x, const SplitFloat* factors, const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    map_row(x.data + r * x.stride, x.count, y.data + r * y.stride,
            [factor = factors[r]](Vector v) ATTN_INLINE_LAMBDA { return scaled(v, factor); });
  }
}

template <bool HasShift>
void log_terms_of_row(const float* x, std::int64_t count, const LogTerms& terms, float* y) {
  map_row(x, count, y, [terms](Vector v) ATTN_INLINE_LAMBDA {
    if constexpr (HasShift) v = shifted(v, terms);
    const Vector rough = v * terms.factor.high;
    const Vector value =
        remainder_of_product(v, terms.factor, broadcast(terms.log_sum_high)) - terms.log_sum_low;
    // The halves of an infinity would give a NaN.
    return select(rough == minus_infinity, rough - terms.log_sum_high, value);
  });
}

void log_terms(const FloatRows& x, const LogTerms* terms, const FloatRowsOut& y) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto write_row = terms[r].has_shift ? log_terms_of_row<true> : log_terms_of_row<false>;
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
  return multiply_add(half_as_doubles<0>(x), half_as_doubles<0>(y),
                      half_as_doubles<1>(x) * half_as_doubles<1>(y));
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

void add_scaled(const float* x, std::int64_t count, double factor, double* sums) {
  for (std::int64_t n = 0; n < count; ++n) sums[n] += factor * static_cast<double>(x[n]);
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
               [sum = g.sum, temperature = g.temperature](Vector dy, Vector y) ATTN_INLINE_LAMBDA {
                 return multiply_add(exp_nonpositive(y), broadcast(-sum), dy) / temperature;
               });
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
    .add_scaled = add_scaled,
    .softmax_gradient = softmax_gradient,
    .log_softmax_gradient = log_softmax_gradient,
};

}  // namespace
}  // namespace attn::kernels
