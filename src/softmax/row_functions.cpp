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

SplitFloat factor_of(double value) {
  const auto high = static_cast<float>(value);
  const auto upper = std::bit_cast<float>(std::bit_cast<std::uint32_t>(high) & 0xfffff000u);
  return {
      .high = high, .low = static_cast<float>(value - high), .upper = upper, .lower = high - upper};
}

constexpr float near = 256;  // in the log2 domain: parts of so great an exponent are exact, and
                             // greater ones differ exactly
constexpr float all_far = -1;

/// The terms of sums at a temperature.
class Terms {
 public:
  /// Where the greatest exponent is above `unmoved`, terms are moved.
  explicit Terms(float temperature, float unmoved = near)
      : unmoved_(unmoved),
        shrink_(temperature > far ? 1 / far : 1),
        stretch_(temperature < 1 / far ? far : 1),
        temperature_(static_cast<double>(temperature) * shrink_ * stretch_),
        factor_(log2e / temperature_),
        factors_(factor_of(factor_)),
        inverse_(factor_of(1 / temperature_)) {}

  /// For a row with this greatest element, whose term is 2 at most.
  ExpReduction below(float greatest) const {
    constexpr double least = -126;
    constexpr double to_whole = 0x1.8p52;                               // adding it rounds
    if (greatest == minus_infinity) return kernels::plain_exponential;  // of -inf that is 0
    const double exponent = greatest * factor_;
    const bool moved = shrink_ != 1 || stretch_ != 1 || !(std::abs(exponent) <= unmoved_);
    const double whole = moved ? 0 : (exponent + to_whole) - to_whole;
    return {.moved = moved,
            .shrink = shrink_,
            .shift = moved ? greatest * shrink_ : 0,
            .stretch = stretch_,
            .factor = factors_,
            .whole = static_cast<std::int32_t>(whole),
            .bound = static_cast<float>((whole + least) * (temperature_ * ln2))};
  }

  /// What exp's argument has less in a term of `e` than in one of `base`, or than in its formula.
  double taken_out(const ExpReduction& e,
                   const ExpReduction& base = kernels::plain_exponential) const {
    return (static_cast<double>(e.shift) - base.shift) / (temperature_ / stretch_) +
           (e.whole - base.whole) * ln2;
  }

  /// What turns elements of the row into their logarithms of softmax; -inf into itself where there
  /// are no terms.
  LogTerms logarithms(const ExpReduction& e, double sum) const {
    const SplitFloat log_sum = sum == 0 ? SplitFloat{} : factor_of(e.whole * ln2 + std::log(sum));
    return {.moved = e.moved,
            .shrink = e.shrink,
            .shift = e.shift,
            .stretch = e.stretch,
            .factor = inverse_,
            .high = log_sum.high,
            .low = log_sum.low};
  }

 private:
  static constexpr float far = 0x1p60f;  // so great a temperature, or so small a one, leaves too
                                         // little room for products' halves

  double unmoved_;
  float shrink_, stretch_;
  double temperature_;  // within that room
  double factor_;
  SplitFloat factors_, inverse_;
};

/// The sums of a few rows' terms, and what the terms are. 0: a row is empty or nothing but -inf.
struct RowSums {
  ExpReduction exponentials[kernels::rows_at_once];
  double sums[kernels::rows_at_once];
};

constexpr std::int64_t block_size =
    4096;  // elements: L1 keeps them from their maximum to their sum
constexpr std::int64_t kept_row =
    65536;  // rows of so many elements stay in a core's second-level cache, with their terms

/// In two passes over whole rows. to may be null; else terms are kept there.
RowSums sum_in_passes(const RowKernels& rows, const FloatRows& x, const Terms& terms,
                      const FloatRowsOut& to) {
  RowSums result;
  float maxima[kernels::rows_at_once];
  rows.maxima(x, maxima);
  for (std::int64_t r = 0; r < x.rows; ++r) result.exponentials[r] = terms.below(maxima[r]);
  rows.sum_terms(x, result.exponentials, to, result.sums);
  return result;
}

/// One row in one pass, block by block: where a block's maximum is a new one, the sum so far is
/// multiplied to fit.
void sum_in_one_pass(const RowKernels& rows, const FloatRows& row, const Terms& terms,
                     ExpReduction& e, double& sum) {
  float maximum = minus_infinity;
  e = kernels::plain_exponential;
  sum = 0;
  for (std::int64_t n = 0; n < row.count; n += block_size) {
    const FloatRows block{row.data + n, 0, 1, std::min(block_size, row.count - n)};
    float here = 0;
    rows.maxima(block, &here);
    if (here > maximum) {
      const ExpReduction grown = terms.below(here);
      if (maximum != minus_infinity) sum *= std::exp(terms.taken_out(e, grown));
      e = grown;
      maximum = here;
    }
    double more = 0;
    rows.sum_terms(block, &e, {}, &more);
    sum += more;
  }
}

/// Reads x once from memory.
RowSums sum_once(const RowKernels& rows, const FloatRows& x, const Terms& terms) {
  if (x.count <= block_size) return sum_in_passes(rows, x, terms, {});
  RowSums result;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    sum_in_one_pass(rows, {x.data + r * x.stride, 0, 1, x.count}, terms, result.exponentials[r],
                    result.sums[r]);
  }
  return result;
}

}  // namespace

float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept {
  return kernels.rows.maximum(x, count);
}

void logsumexp_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                    float* out) noexcept {
  const Terms terms(temperature);
  const RowSums sums = sum_once(kernels.rows, x, terms);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    out[r] = static_cast<float>(terms.taken_out(sums.exponentials[r]) + std::log(sums.sums[r]));
  }
}

void softmax_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                  const FloatRowsOut& y) noexcept {
  const bool kept =
      x.count <= kept_row;  // else making terms twice costs less than writing and reading them
  const Terms terms(temperature);
  const RowSums sums =
      kept ? sum_in_passes(kernels.rows, x, terms, y) : sum_once(kernels.rows, x, terms);
  SplitFloat factors[kernels::rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r)
    factors[r] = factor_of(sums.sums[r] == 0 ? 0 : 1 / sums.sums[r]);
  if (kept) {
    kernels.rows.scale({y.data, y.stride, x.rows, x.count}, factors, y);
  } else {
    kernels.rows.scale_terms(x, sums.exponentials, factors, y);
  }
}

void log_softmax_rows(const kernels::Kernels& kernels, const FloatRows& x, float temperature,
                      const FloatRowsOut& y) noexcept {
  const Terms terms(temperature);
  const RowSums sums = sum_once(kernels.rows, x, terms);
  LogTerms logarithms[kernels::rows_at_once];
  for (std::int64_t r = 0; r < x.rows; ++r)
    logarithms[r] = terms.logarithms(sums.exponentials[r], sums.sums[r]);
  kernels.rows.log_terms(x, logarithms, y);
}

void log_sum_rows(const kernels::Kernels& kernels, const FloatRows& x, LogSum* log_sums) noexcept {
  const RowSums sums = sum_once(kernels.rows, x, Terms(1, all_far));
  for (std::int64_t r = 0; r < x.rows; ++r)
    log_sums[r] = {sums.exponentials[r].shift, std::log(sums.sums[r])};
}

void logsumexp_gradient_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                            const LogsumexpGradient& gradient, float* dx) noexcept {
  if (gradient.out == minus_infinity) {
    std::fill(dx, dx + count, 0.f);
    return;
  }
  const double temperature = gradient.temperature;
  const Terms terms(gradient.temperature);
  const ExpReduction e = terms.below(static_cast<float>(gradient.out * temperature));
  const SplitFloat factor =
      factor_of(gradient.dout * std::exp(terms.taken_out(e) - gradient.out) / temperature);
  kernels.rows.scale_terms({x, 0, 1, count}, &e, &factor, {dx, 0});
}

}  // namespace attn::detail
