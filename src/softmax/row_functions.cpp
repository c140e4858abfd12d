#include "softmax/row_functions.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace attn {
namespace {

using kernels::Exponential;
using kernels::Factor;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr double log2e = 1.4426950408889634074;
constexpr double ln2 = 0.69314718055994530942;

Factor factor_of(double value) {
  const auto high = static_cast<float>(value);
  const auto upper = std::bit_cast<float>(std::bit_cast<std::uint32_t>(high) & 0xfffff000u);
  return {.high = high, .low = static_cast<float>(value - high), .upper = upper, .lower = high - upper};
}

/// Terms that are 2 at most for the row's greatest element.
Exponential exponential_for(float greatest, float temperature) {
  constexpr double near = 256;  // in the log2 domain: parts of so great an exponent are exact, and greater ones differ exactly
  constexpr double least = -126;
  constexpr float far = 0x1p60f;         // so great a temperature, or so small a one, leaves too little room for products' halves
  constexpr double to_whole = 0x1.8p52;  // adding it rounds
  const float shrink = temperature > far ? 1 / far : 1, stretch = temperature < 1 / far ? far : 1;
  const double scaled = static_cast<double>(temperature) * shrink * stretch;
  const double factor = log2e / scaled;
  const double exponent = greatest * factor;
  const bool moved = shrink != 1 || stretch != 1 || !(std::abs(exponent) <= near);
  const double whole = moved ? 0 : (exponent + to_whole) - to_whole;
  return {.moved = moved,
          .shrink = shrink,
          .shift = moved ? greatest * shrink : 0,
          .stretch = stretch,
          .factor = factor_of(factor),
          .whole = static_cast<std::int32_t>(whole),
          .bound = static_cast<float>((whole + least) * (scaled * ln2))};
}

/// What exp's argument has less in a term than in its formula.
double taken_out(const Exponential& e, float temperature) {
  return e.shift / (static_cast<double>(temperature) * e.shrink) + e.whole * ln2;
}

struct RowCall {
  const float* x;
  std::int64_t count;
  float temperature;
};

/// The sum of a row's terms, and what they are.
struct RowSum {
  Exponential exponential;
  double sum;  // 0: the row is empty or nothing but -inf
};

constexpr std::int64_t block_size = 4096;  // elements: L1 keeps them from their maximum to their sum
constexpr std::int64_t kept_row = 65536;   // rows of so many elements stay in a core's second-level cache, with their terms

/// In two passes over the whole row; terms may be null.
RowSum sum_in_passes(const kernels::RowKernels& rows, const RowCall& row, float* terms) {
  const float maximum = rows.maximum(row.x, row.count);
  if (maximum == minus_infinity) return {{}, 0};
  const Exponential e = exponential_for(maximum, row.temperature);
  return {e, rows.sum_terms(row.x, row.count, e, terms)};
}

/// In one pass, block by block: where a block's maximum is a new one, the sum so far is multiplied with a power of two, exactly.
RowSum sum_in_one_pass(const kernels::RowKernels& rows, const RowCall& row) {
  RowSum result{{}, 0};
  float maximum = minus_infinity;
  for (std::int64_t n = 0; n < row.count; n += block_size) {
    const std::int64_t size = std::min(block_size, row.count - n);
    const float here = rows.maximum(row.x + n, size);
    if (here == minus_infinity) continue;
    if (!(here <= maximum)) {
      const Exponential e = exponential_for(here, row.temperature);
      if (e.moved) return sum_in_passes(rows, row, nullptr);
      if (maximum != minus_infinity) result.sum = std::ldexp(result.sum, result.exponential.whole - e.whole);
      result.exponential = e;
      maximum = here;
    }
    result.sum += rows.sum_terms(row.x + n, size, result.exponential, nullptr);
  }
  return result;
}

/// terms is where they may be kept: null if making them twice costs less than writing and reading them.
void softmax_of(const kernels::RowKernels& rows, const RowCall& row, float* terms, float* y) {
  const RowSum sum = terms == nullptr ? sum_in_one_pass(rows, row) : sum_in_passes(rows, row, terms);
  if (sum.sum == 0) {
    std::fill(y, y + row.count, 0.f);
    return;
  }
  const Factor factor = factor_of(1 / sum.sum);
  if (terms == nullptr) {
    rows.scale_terms(row.x, row.count, sum.exponential, factor, y);
  } else {
    rows.scale(terms, row.count, factor, y);
  }
}

}  // namespace

float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept { return kernels.rows.maximum(x, count); }

float logsumexp_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature) noexcept {
  const RowSum sum = sum_in_one_pass(kernels.rows, {x, count, temperature});
  if (sum.sum == 0) return minus_infinity;
  return static_cast<float>(taken_out(sum.exponential, temperature) + std::log(sum.sum));
}

void softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept {
  softmax_of(kernels.rows, {x, count, temperature}, count <= kept_row ? y : nullptr, y);
}

void log_softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept {
  const RowSum sum = sum_in_one_pass(kernels.rows, {x, count, temperature});
  if (sum.sum == 0) {
    std::fill(y, y + count, minus_infinity);
    return;
  }
  const Exponential& e = sum.exponential;
  const Factor log_sum = factor_of(e.whole * ln2 + std::log(sum.sum));
  kernels.rows.log_terms(x, count,
                         {.moved = e.moved,
                          .shrink = e.shrink,
                          .shift = e.shift,
                          .stretch = e.stretch,
                          .factor = factor_of(1 / (static_cast<double>(temperature) * e.shrink * e.stretch)),
                          .high = log_sum.high,
                          .low = log_sum.low},
                         y);
}

LogSum log_sum_row(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept {
  Exponential e = kernels::plain_exponential;
  e.moved = true;
  e.shift = minus_infinity;
  double sum = 0;
  for (std::int64_t n = 0; n < count; n += block_size) {
    const std::int64_t size = std::min(block_size, count - n);
    const float here = kernels.rows.maximum(x + n, size);
    if (here == minus_infinity) continue;
    if (!(here <= e.shift)) {
      sum *= std::exp(static_cast<double>(e.shift) - here);
      e.shift = here;
    }
    sum += kernels.rows.sum_terms(x + n, size, e, nullptr);
  }
  return {e.shift, std::log(sum)};
}

void logsumexp_gradient_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, const LogsumexpGradient& gradient,
                            float* dx) noexcept {
  if (gradient.out == minus_infinity) {
    std::fill(dx, dx + count, 0.f);
    return;
  }
  const double temperature = gradient.temperature;
  const Exponential e = exponential_for(static_cast<float>(gradient.out * temperature), gradient.temperature);
  const double rest = taken_out(e, gradient.temperature) - gradient.out;
  kernels.rows.scale_terms(x, count, e, factor_of(gradient.dout * std::exp(rest) / temperature), dx);
}

}  // namespace attn
