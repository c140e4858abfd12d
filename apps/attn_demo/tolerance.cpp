#include "tolerance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "plain_float.hpp"

namespace attn::demo {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

double difference(double value, double reference) {
  if (value == reference || (std::isnan(value) && std::isnan(reference))) return 0;
  const double apart = std::abs(value - reference);
  return std::isnan(apart) ? infinity : apart;
}

std::vector<std::int64_t> index_of(std::int64_t element, const Dims& shape) {
  std::vector<std::int64_t> index(static_cast<std::size_t>(shape.rank()));
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    index[dim] = element % shape[dim];
    element /= shape[dim];
  }
  return index;
}

double largest_finite(const Tensor& tensor) {
  double largest = 0;
  const double* const values = tensor.data<double>();
  for (std::int64_t n = 0; n < tensor.size(); ++n) {
    if (std::isfinite(values[n])) largest = std::max(largest, std::abs(values[n]));
  }
  return largest;
}

/// Half the distance between the numbers of a 16-bit type around a magnitude; 0 for f32, whose
/// rounding is in e.
double half_ulp(DType dtype, double magnitude) {
  if (dtype == DType::f32 || magnitude == 0) return 0;
  const bool half = dtype == DType::f16;
  const int exponent = std::max(std::ilogb(magnitude), half ? -14 : -126);
  return std::ldexp(1, exponent - (half ? 10 : 7) - 1);
}

/// How many rows the plain program is asked for: all where that is quick, and enough to meet the
/// rare large error elsewhere.
std::int64_t sample_size(std::int64_t rows, std::int64_t products_per_row) {
  constexpr std::int64_t quick = std::int64_t{1} << 27, least = 256;
  return std::min(rows, std::max(least, quick / std::max<std::int64_t>(1, products_per_row)));
}

/// Rows of [batch, num_q_heads, q_len], numbered through. Steps by the golden ratio fall evenly
/// whatever the sizes of these.
std::vector<std::int64_t> sample_rows(std::int64_t rows, std::int64_t count) {
  std::vector<std::int64_t> sample;
  for (std::int64_t n = 0; n < count; ++n) {
    double whole = 0;
    const double place = std::modf(0.6180339887498949 * static_cast<double>(n), &whole);
    sample.push_back(count == rows ? n
                                   : static_cast<std::int64_t>(place * static_cast<double>(rows)));
  }
  return sample;
}

struct PlainErrors {
  double out = 0;
  double lse = 0;
};

/// Errors that are not finite say nothing of rounding and are left out.
PlainErrors plain_errors(const PlainFloat& plain, const std::vector<std::int64_t>& rows,
                         const Tensor& out, const Tensor& lse) {
  PlainErrors errors;
  const auto grow = [](double& error, double value, double reference) {
    const double apart = difference(value, reference);
    if (std::isfinite(apart)) error = std::max(error, apart);
  };
  const Dims& shape = out.shape();
  for (const std::int64_t row : rows) {
    const PlainFloat::Row got =
        plain.row(row / shape[2] / shape[1], row / shape[2] % shape[1], row % shape[2]);
    const double* const reference = out.data<double>() + row * shape[3];
    for (std::int64_t d = 0; d < shape[3]; ++d)
      grow(errors.out, static_cast<double>(got.out[d]), reference[d]);
    if (lse.size() > 0) grow(errors.lse, static_cast<double>(got.lse), lse.data<double>()[row]);
  }
  return errors;
}

}  // namespace

Errors errors_between(const TensorView& values, const TensorView& reference) {
  const Tensor got = copy_as(values, DType::f64), expected = copy_as(reference, DType::f64);
  Errors errors;
  double squares = 0;
  for (std::int64_t n = 0; n < expected.size(); ++n) {
    const double truth = expected.data<double>()[n];
    const double apart = difference(got.data<double>()[n], truth);
    squares += apart * apart;
    if (truth != 0 && std::isfinite(truth))
      errors.max_rel = std::max(errors.max_rel, apart / std::abs(truth));
    if (apart > errors.max_abs) {
      errors.max_abs = apart;
      errors.worst = index_of(n, reference.shape);
    }
  }
  errors.rms = std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(1, expected.size())));
  return errors;
}

Tolerance derive_tolerance(const AttentionTensors& call, const AttentionTensors& reference,
                           const AttentionOptions& options, DType out_dtype) {
  const PlainFloat plain(call, options);
  const Tensor out = copy_as(reference.out, DType::f64);
  const Tensor lse =
      reference.lse.absent() ? Tensor(DType::f64, {0}) : copy_as(reference.lse, DType::f64);
  const std::int64_t all_rows = out.size() / out.shape()[3];
  const std::int64_t products_per_row =
      reference.k.shape[2] * (reference.q.shape[3] + reference.v.shape[3]);
  const std::vector<std::int64_t> rows =
      sample_rows(all_rows, sample_size(all_rows, products_per_row));
  const PlainErrors e = plain_errors(plain, rows, out, lse);

  constexpr double eps = std::numeric_limits<float>::epsilon();
  const double rounding = half_ulp(out_dtype, largest_finite(out));
  const double largest_value = static_cast<double>(plain.largest_value());
  Tolerance tolerance;
  tolerance.out = 2 * e.out + 4 * eps * largest_value + rounding;
  tolerance.lse = 2 * e.lse + 4 * eps * std::max(1.0, largest_finite(lse));
  tolerance.derivation = fmt::format(
      "2 e + 4 eps max|V|{}; a plain float program errs by e = {:.1e} ({} of {} rows), max|V| = "
      "{:.3g}",
      rounding > 0 ? fmt::format(" + {:.1e} to round O to {}", rounding, name_of(out_dtype)) : "",
      e.out, rows.size(), all_rows, largest_value);
  return tolerance;
}

}  // namespace attn::demo
