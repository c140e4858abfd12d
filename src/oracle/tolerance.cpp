#include "oracle/tolerance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "oracle/errors.hpp"
#include "oracle/magnitudes.hpp"
#include "oracle/plain_float.hpp"

namespace attn::detail {
namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();
constexpr double half_bf16_eps = 0x1p-8;

/// How many rows PlainFloat computes in the measured mode: all where that is quick, and enough to
/// find a rare large error elsewhere.
std::int64_t sample_size(std::int64_t rows, std::int64_t products_per_row) {
  constexpr std::int64_t quick = std::int64_t{1} << 27, least = 256;
  return std::min(rows, std::max(least, quick / std::max<std::int64_t>(1, products_per_row)));
}

/// Numbers of `count` of the rows [batch, num_q_heads, q_len]. Multiples of the golden ratio, taken
/// modulo 1, spread evenly whatever the sizes are.
std::vector<std::int64_t> sample_rows(std::int64_t rows, std::int64_t count) {
  std::vector<std::int64_t> sample;
  for (std::int64_t n = 0; n < count; ++n) {
    double integer_part = 0;
    const double place = std::modf(0.6180339887498949 * static_cast<double>(n), &integer_part);
    sample.push_back(count == rows ? n
                                   : static_cast<std::int64_t>(place * static_cast<double>(rows)));
  }
  return sample;
}

PlainFloat::Row row_at(const PlainFloat& plain, const Dims& shape, std::int64_t row) {
  return plain.row(row / shape[2] / shape[1], row / shape[2] % shape[1], row % shape[2]);
}

struct PlainErrors {
  double out = 0;
  double lse = 0;
  double out_spread = 0;
  double lse_spread = 0;
};

PlainErrors plain_errors(const PlainFloat& plain, const std::vector<std::int64_t>& rows,
                         const Tensor& out, const Tensor& lse) {
  PlainErrors errors;
  const auto grow = [](double& largest, double value, double reference) {
    const double error = error_of(value, reference);
    if (std::isfinite(error)) largest = std::max(largest, error);
  };
  const Dims& shape = out.shape();
  for (const std::int64_t row : rows) {
    const PlainFloat::Row got = row_at(plain, shape, row);
    if (std::isfinite(got.out_spread))
      errors.out_spread = std::max(errors.out_spread, got.out_spread);
    if (std::isfinite(got.lse_spread))
      errors.lse_spread = std::max(errors.lse_spread, got.lse_spread);
    const double* const reference = out.data<double>() + row * shape[3];
    for (std::int64_t d = 0; d < shape[3]; ++d)
      grow(errors.out, static_cast<double>(got.out[d]), reference[d]);
    if (lse.size() > 0) grow(errors.lse, static_cast<double>(got.lse), lse.data<double>()[row]);
  }
  return errors;
}

/// max(P V) over all rows for other values than the call's.
template <class ValueOf>
double largest_output(AttentionTensors call, const AttentionOptions& options, const Dims& shape,
                      ValueOf value_of) {
  Tensor values = copy_as(call.v, DType::f32);
  std::transform(values.data<float>(), values.data<float>() + values.size(), values.data<float>(),
                 value_of);
  call.v = values.view();
  const PlainFloat plain(call, options, PlainFloat::Division::before_values);
  double largest = 0;
  for (std::int64_t row = 0; row < shape.product() / shape[3]; ++row) {
    for (const float value : row_at(plain, shape, row).out) {
      if (std::isfinite(value)) largest = std::max(largest, static_cast<double>(value));
    }
  }
  return largest;
}

/// s of the bounded mode.
double largest_sum_of_probabilities(const AttentionTensors& call, const AttentionOptions& options,
                                    const Dims& shape) {
  if (options.normalizer.kind() != Normalizer::Kind::sigmoid) return 1;
  return std::max(1.0, largest_output(call, options, shape, [](float) { return 1.f; }));
}

/// The type that P is rounded to, at most: f32 says that it is not rounded.
DType type_of_probabilities(const AttentionTensors& call, DType kv_dtype) {
  if (kv_dtype != DType::i8) return kv_dtype;
  return call.q.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

/// p of the bounded mode.
double rounding_of_probabilities(const AttentionTensors& call, const AttentionOptions& options,
                                 DType kv_dtype, const Dims& shape) {
  const bool rounded = call.q.dtype == DType::bf16 &&
                       type_of_probabilities(call, kv_dtype) == DType::bf16 &&
                       options.normalizer == Normalizer::softmax();
  if (!rounded) return 0;
  return half_bf16_eps *
         largest_output(call, options, shape, [](float value) { return std::abs(value); });
}

}  // namespace

Tolerance derive_tolerance(const AttentionTensors& call, const AttentionTensors& reference,
                           const AttentionOptions& options, DType out_dtype, DType kv_dtype,
                           ProbabilityRounding rounding) {
  const bool bounded = rounding == ProbabilityRounding::bounded;
  const PlainFloat plain(
      call, options,
      bounded ? PlainFloat::Division::before_values : PlainFloat::Division::after_values,
      type_of_probabilities(call, kv_dtype));
  const Tensor out = copy_as(reference.out, DType::f64);
  const Tensor lse =
      reference.lse.absent() ? Tensor(DType::f64, {0}) : copy_as(reference.lse, DType::f64);
  const Dims& shape = out.shape();
  const std::int64_t all_rows = out.size() / shape[3];
  const std::int64_t products_per_row = call.k.shape[2] * (call.q.shape[3] + call.v.shape[3]);
  const std::vector<std::int64_t> rows =
      sample_rows(all_rows, bounded ? all_rows : sample_size(all_rows, products_per_row));
  const PlainErrors e = plain_errors(plain, rows, out, lse);

  const double s = bounded ? largest_sum_of_probabilities(call, options, shape) : 1;
  const double p = bounded ? rounding_of_probabilities(call, options, kv_dtype, shape) : 0;
  const double rounding_of_out = half_ulp(out_dtype, largest_finite(out));
  const double max_v = largest_finite(copy_as(call.v, DType::f64));
  Tolerance tolerance;
  tolerance.plain_error = e.out;
  tolerance.largest_value = max_v * s;
  tolerance.out = 2 * e.out + e.out_spread + 4 * eps * tolerance.largest_value + rounding_of_out +
                  p + subnormal_rounding(call.k.shape[2]);
  tolerance.lse = 2 * e.lse + e.lse_spread + 4 * eps * std::max(1.0, largest_finite(lse));
  tolerance.derivation = fmt::format(
      "2 e + b + 4 eps max|V|{}; a plain float program errs by e = {:.1e} ({} of {} rows), rounded "
      "scores move O by b = {:.1e}, max|V| = {:.3g}",
      rounding_of_out > 0
          ? fmt::format(" + {:.1e} to round O to {}", rounding_of_out, name_of(out_dtype))
          : "",
      e.out, rows.size(), all_rows, e.out_spread, max_v);
  return tolerance;
}

}  // namespace attn::detail
