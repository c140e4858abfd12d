// The exponential functions of rows. A term is exp(x_j / temperature), times a power of two or less
// a shift of the exponent that a row has in common (kernels::ExpReduction), so that no term
// overflows and the sum is of order 1 or more.
#include "softmax/row_functions.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace attn::detail {
namespace {

using kernels::ExpReduction;
using kernels::FloatRows;
using kernels::FloatRowsOut;
using kernels::LogTerms;
using kernels::RowKernels;
using kernels::SplitFloat;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr double log2e = 1.4426950408889634074;
constexpr double ln2 = 0.69314718055994530942;

/// A double as the sum of two floats; the first is also given as two halves of 12 bits each.
SplitFloat split(double value) {
  const auto high = static_cast<float>(value);
  const auto upper = std::bit_cast<float>(std::bit_cast<std::uint32_t>(high) & 0xfffff000u);
  return {.high = high,
          .low = static_cast<float>(value - high),
          .high_leading = upper,
          .high_trailing = high - upper};
}

/// Exponents of 2 up to this magnitude need no shift: the parts that the kernels split them into
/// are exact, and beyond it the differences from a shift are.
constexpr float most_unshifted = 256;
/// As a limit of that kind, every row is shifted.
constexpr float always_shift = -1;

/// Makes the ExpReduction of rows at one temperature.
class ExpReducer {
 public:
  /// Rows whose greatest exponent of 2 is above most_unshifted are shifted.
  explicit ExpReducer(float temperature, float unshifted = most_unshifted)
      : unshifted_(unshifted),
        shrink_(temperature > extreme ? 1 / extreme : 1),
        stretch_(temperature < 1 / extreme ? extreme : 1),
        temperature_(static_cast<double>(temperature) * shrink_ * stretch_),
        factor_(log2e / temperature_),
        split_factor_(split(factor_)),
        split_inverse_(split(1 / temperature_)) {}

  /// The reduction of a row with this greatest element, whose term becomes 2 at most.
  ExpReduction reduction(float greatest) const {
    constexpr double least_exponent = -126;
    constexpr double rounder = 0x1.8p52;  // adding and subtracting it rounds to an integer
    // The row has no element above -inf, and e^x is 0 for each.
    if (greatest == minus_infinity) return kernels::plain_exponential;
    const double exponent = greatest * factor_;
    const bool moved = shrink_ != 1 || stretch_ != 1 || !(std::abs(exponent) <= unshifted_);
    const double whole = moved ? 0 : (exponent + rounder) - rounder;
    return {.has_shift = moved,
            .pre_scale = shrink_,
            .shift = moved ? greatest * shrink_ : 0,
            .post_scale = stretch_,
            .factor = split_factor_,
            .exponent = static_cast<std::int32_t>(whole),
            .zero_below = static_cast<float>((whole + least_exponent) * (temperature_ * ln2))};
  }

  /// The natural logarithm of what a term of `base` is divided by to become a term of `e`. For the
  /// default base that is what the logarithm of a sum of terms lacks.
  double log_divisor(const ExpReduction& e,
                     const ExpReduction& base = kernels::plain_exponential) const {
    return (static_cast<double>(e.shift) - base.shift) / (temperature_ / stretch_) +
           (e.exponent - base.exponent) * ln2;
  }

  /// The natural logarithm of the sum of the row's terms, less the shift of the row.
  double log_sum(const ExpReduction& e, double sum) const {
    return e.exponent * ln2 + std::log(sum);
  }

  /// Whether the greatest element has so nearly all of the probability that what the others add is
  /// not much more than the rounding errors of the terms. For a row with a shift there are none in
  /// the greatest element's term, which is exactly 1.
  bool lost_in_rounding(const ExpReduction& e, float greatest, double log_sum) const {
    constexpr double least = 0x1p-20;
    return !e.has_shift && log_sum - greatest / temperature_ < least;
  }

  /// How the kernels make log_softmax from the row's elements. For a row without terms, whose sum
  /// is 0, -inf stays -inf.
  LogTerms log_terms(const ExpReduction& e, double log_of_sum) const {
    const SplitFloat log_sum = log_of_sum == minus_infinity ? SplitFloat{} : split(log_of_sum);
    return {.has_shift = e.has_shift,
            .pre_scale = e.pre_scale,
            .shift = e.shift,
            .post_scale = e.post_scale,
            .factor = split_inverse_,
            .log_sum_high = log_sum.high,
            .log_sum_low = log_sum.low};
  }

 private:
  /// A temperature above this, or below its inverse, is scaled by it: otherwise products of the
  /// halves of a SplitFloat would leave the range of floats.
  static constexpr float extreme = 0x1p60f;

  double unshifted_;
  float shrink_, stretch_;
  double temperature_;  // scaled
  double factor_;
  SplitFloat split_factor_, split_inverse_;
};

/// The sums of the terms of a few rows, and the reductions that the terms were made with. A sum is
/// 0 if the row is empty or has no element above -inf.
struct RowSums {
  float greatest[kernels::rows_at_once];  // element; NaN is ignored
  ExpReduction reductions[kernels::rows_at_once];
  double sums[kernels::rows_at_once];
};

/// Elements that stay in the L1 cache from the search for their maximum to their sum.
constexpr std::int64_t block_size = 4096;
/// A row of this length stays in the L2 cache together with its terms.
constexpr std::int64_t longest_cached_row = 65536;

/// Two passes over whole rows, one for the maxima and one for the sums. The terms are stored in
/// `to` unless it is null.
RowSums sum_in_two_passes(const RowKernels& rows, const FloatRows& x, const ExpReducer& reducer,
                          const FloatRowsOut& to) {
  RowSums result;
  rows.maxima(x, result.greatest);
  for (std::int64_t r = 0; r < x.rows; ++r)
    result.reductions[r] = reducer.reduction(result.greatest[r]);
  rows.sum_terms(x, result.reductions, to, result.sums);
  return result;
}

/// One pass over one row, block by block; the result is that of row r. Where a block has a new
/// maximum, the sum so far is rescaled to the block's reduction.
void sum_in_one_pass(const RowKernels& rows, const FloatRows& row, const ExpReducer& reducer,
                     std::int64_t r, RowSums& result) {
  float& row_max = result.greatest[r] = minus_infinity;
  ExpReduction& e = result.reductions[r] = kernels::plain_exponential;
  double& sum = result.sums[r] = 0;
  for (std::int64_t n = 0; n < row.count; n += block_size) {
    const FloatRows block{row.data + n, 0, 1, std::min(block_size, row.count - n)};
    float block_max = 0;
    rows.maxima(block, &block_max);
    if (block_max > row_max) {
      const ExpReduction grown = reducer.reduction(block_max);
      if (row_max != minus_infinity) sum *= std::exp(reducer.log_divisor(e, grown));
      e = grown;
      row_max = block_max;
    }
    double block_sum = 0;
    rows.sum_terms(block, &e, {}, &block_sum);
    sum += block_sum;
  }
}

/// Reads x only once from memory and stores no terms.
RowSums sum_once(const RowKernels& rows, const FloatRows& x, const ExpReducer& reducer) {
  if (x.count <= block_size) return sum_in_two_passes(rows, x, reducer, {});
  RowSums result;
  for (std::int64_t r = 0; r < x.rows; ++r)
    sum_in_one_pass(rows, {x.data + r * x.stride, 0, 1, x.count}, reducer, r, result);
  return result;
}

/// The terms of row r with the greatest element as its shift, so that the logarithm of the sum is
/// not below 0, and keeps what the other terms add.
LogTerms shifted_log_terms(const RowKernels& rows, const FloatRows& x, std::int64_t r,
                           float temperature) {
  const ExpReducer reducer(temperature, always_shift);
  const RowSums sums = sum_once(rows, {x.data + r * x.stride, 0, 1, x.count}, reducer);
  const ExpReduction& e = sums.reductions[0];
  return reducer.log_terms(e, reducer.log_sum(e, sums.sums[0]));
}

}  // namespace

float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept {
  return kernels.rows.maximum(x, count);
}

void logsumexp_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                    float* out) noexcept {
  const ExpReducer reducer(temperature);
  const RowSums sums = sum_once(kernels.rows, x, reducer);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    // What the greatest element has alone. The sum's rounding errors must not lead below it.
    const auto least = static_cast<float>(static_cast<double>(sums.greatest[r]) / temperature);
    const auto sum =
        static_cast<float>(reducer.log_divisor(sums.reductions[r]) + std::log(sums.sums[r]));
    out[r] = sum < least ? least : sum;
  }
}

void softmax_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                  const FloatRowsOut& y) noexcept {
  // For longer rows, computing the terms twice costs less than writing and reading them.
  const bool store_terms = x.count <= longest_cached_row;
  const ExpReducer reducer(temperature);
  const RowSums sums = store_terms ? sum_in_two_passes(kernels.rows, x, reducer, y)
                                   : sum_once(kernels.rows, x, reducer);
  SplitFloat factors[kernels::rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r)
    factors[r] = split(sums.sums[r] == 0 ? 0 : 1 / sums.sums[r]);
  if (store_terms) {
    kernels.rows.scale({y.data, y.stride, x.rows, x.count}, factors, y);
  } else {
    kernels.rows.scale_terms(x, sums.reductions, factors, y);
  }
}

void log_softmax_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                      const FloatRowsOut& y) noexcept {
  const ExpReducer reducer(temperature);
  const RowSums sums = sum_once(kernels.rows, x, reducer);
  LogTerms terms[kernels::rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const double log_sum = reducer.log_sum(sums.reductions[r], sums.sums[r]);
    terms[r] = reducer.lost_in_rounding(sums.reductions[r], sums.greatest[r], log_sum)
                   ? shifted_log_terms(kernels.rows, x, r, temperature)
                   : reducer.log_terms(sums.reductions[r], log_sum);
  }
  kernels.rows.log_terms(x, terms, y);
}

void log_sum_rows(const kernels::Kernels& kernels, const FloatRows& x, LogSum* log_sums) noexcept {
  const RowSums sums = sum_once(kernels.rows, x, ExpReducer(1, always_shift));
  for (std::int64_t r = 0; r < x.rows; ++r)
    log_sums[r] = {sums.reductions[r].shift, std::log(sums.sums[r])};
}

void logsumexp_gradient_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                            const LogsumexpGradient& gradient, float* dx) noexcept {
  if (gradient.out == minus_infinity) {
    std::fill(dx, dx + count, 0.f);
    return;
  }
  const double temperature = gradient.temperature;
  const ExpReducer reducer(gradient.temperature);
  const ExpReduction e = reducer.reduction(static_cast<float>(gradient.out * temperature));
  const SplitFloat factor =
      split(gradient.dout * std::exp(reducer.log_divisor(e) - gradient.out) / temperature);
  kernels.rows.scale_terms({x, 0, 1, count}, &e, &factor, {dx, 0});
}

}  // namespace attn::detail
