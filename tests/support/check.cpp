#include "support/check.hpp"

#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/plain.hpp"

namespace attn::test {
namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();
constexpr double bf16_eps = 0x1p-7;

double largest_finite(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

double largest_error(const std::vector<float>& got, const std::vector<double>& wanted) {
  std::vector<double> errors(got.size());
  std::transform(got.begin(), got.end(), wanted.begin(), errors.begin(),
                 [](double a, double b) { return a - b; });
  return largest_finite(errors);
}

double half_ulp(DType dtype, double magnitude) {
  const int exponent = magnitude > 0 ? std::ilogb(magnitude) : 0;
  switch (dtype) {
    case DType::bf16: return std::ldexp(0.5, exponent - 7);
    case DType::f16: return std::ldexp(0.5, std::max(exponent, -14) - 10);
    default: return 0;  // 4 eps covers it
  }
}

bool agree(double got, double wanted, double tolerance) {
  if (std::isnan(wanted)) return std::isnan(got);
  return got == wanted || std::abs(got - wanted) <= tolerance;
}

/// K or V of i8 as f64, multiplied by the scales.
void dequantize(StridedTensor& rows, StridedTensor& scales) {
  if (rows.dtype() != DType::i8) return;
  std::vector<double> values = rows.values();
  const std::vector<double> factors = scales.values();
  const auto width = static_cast<std::size_t>(rows.shape()[3]);
  for (std::size_t n = 0; n < values.size(); ++n) values[n] *= factors[n / width];
  rows = StridedTensor(DType::f64, rows.shape());
  rows.assign(values);
  scales = {};
}

Inputs dequantized(Inputs inputs) {
  dequantize(inputs.k, inputs.k_scales);
  dequantize(inputs.v, inputs.v_scales);
  return inputs;
}

Outputs reference(const Case& c, const Inputs& inputs) {
  Case in_double = c;
  in_double.out_type = DType::f64;
  in_double.layout = Layout::bhsd;
  in_double.lse = c.options.normalizer == Normalizer::softmax();
  Outputs outputs = make_outputs(in_double);
  attention_reference(bind(inputs, outputs), c.options, c.execution);
  return outputs;
}

/// max(P |V|), which a relative error of the probabilities multiplies.
double largest_weighted_magnitude(const Case& c, Inputs inputs) {
  std::vector<double> magnitudes = inputs.v.values();
  for (double& value : magnitudes) value = std::abs(value);
  inputs.v.assign(magnitudes);
  return largest_finite(reference(c, inputs).out.values());
}

double largest_sum_of_weights(const Case& c, Inputs inputs) {
  inputs.v.assign(std::vector<double>(static_cast<std::size_t>(inputs.v.shape().product()), 1.0));
  return largest_finite(reference(c, inputs).out.values());
}

}  // namespace

Expected expected_of(const Case& c, const Inputs& stored_inputs) {
  const Inputs inputs = dequantized(stored_inputs);
  Outputs truth = reference(c, inputs);
  const PlainResult plain = attention_plain(bind(inputs, truth), c.options);
  Expected expected{truth.out.values(), truth.lse.values()};
  // The probabilities of sigmoid may sum to more than 1.
  const bool sigmoid = c.options.normalizer.kind() == Normalizer::Kind::sigmoid;
  const double largest_value = largest_finite(inputs.v.values()) *
                               (sigmoid ? std::max(1.0, largest_sum_of_weights(c, inputs)) : 1);
  const double largest_lse = std::max(1.0, largest_finite(expected.lse));
  const double plain_error = largest_error(plain.out, expected.out);
  // The plain version and the reference implement the contract independently. If they disagreed,
  // the tolerance would be meaningless.
  CHECK(plain_error <= 100 * eps * largest_lse * largest_value);

  expected.out_tolerance = 2 * plain_error + 4 * eps * largest_value +
                           half_ulp(c.out_type, largest_finite(expected.out));
  const bool bf16_weights = c.q_type == DType::bf16 && c.kv_type == DType::bf16 &&
                            c.options.normalizer == Normalizer::softmax();
  if (bf16_weights) expected.out_tolerance += bf16_eps / 2 * largest_weighted_magnitude(c, inputs);
  expected.lse_tolerance = 2 * largest_error(plain.lse, expected.lse) + 4 * eps * largest_lse;
  return expected;
}

std::string difference(const std::vector<double>& got, const std::vector<double>& wanted,
                       double tolerance) {
  std::size_t worst = got.size();
  double worst_error = -1;
  for (std::size_t n = 0; n < got.size(); ++n) {
    if (agree(got[n], wanted[n], tolerance)) continue;
    const double error = std::isnan(got[n] - wanted[n]) ? std::numeric_limits<double>::infinity()
                                                        : std::abs(got[n] - wanted[n]);
    if (error > worst_error) {
      worst = n;
      worst_error = error;
    }
  }
  if (worst == got.size()) return "";
  return fmt::format("element {} of {} is {} instead of {}: off by {}, allowed {}", worst,
                     got.size(), got[worst], wanted[worst], worst_error, tolerance);
}

std::string difference(const Outputs& got, const Expected& wanted) {
  if (!got.out.gaps_untouched()) return "out: written between its elements";
  if (!got.lse.gaps_untouched()) return "lse: written between its elements";
  if (const std::string out = difference(got.out.values(), wanted.out, wanted.out_tolerance);
      !out.empty())
    return "out: " + out;
  const std::string lse = difference(got.lse.values(), wanted.lse, wanted.lse_tolerance);
  return lse.empty() ? "" : "lse: " + lse;
}

std::string bit_difference(const Outputs& a, const Outputs& b) {
  for (const auto& [name, left, right] :
       {std::tuple{"out", &a.out, &b.out}, std::tuple{"lse", &a.lse, &b.lse}}) {
    const std::vector<std::uint64_t> bits = left->bits(), others = right->bits();
    const auto [place, other] =
        std::mismatch(bits.begin(), bits.end(), others.begin(), others.end());
    if (place != bits.end())
      return fmt::format("{}: element {} is {:#x} or {:#x}", name, place - bits.begin(), *place,
                         *other);
  }
  return "";
}

void check_case(const Case& c) { check_inputs(c, make_inputs(c)); }

void check_inputs(const Case& c, const Inputs& inputs) {
  INFO(repeat_line(c));
  const Expected expected = expected_of(c, inputs);
  for (const Isa isa : available_isas()) {
    CAPTURE(std::string(name_of(isa)));
    CHECK(difference(run(inputs, c, isa), expected) == "");
  }
}

}  // namespace attn::test
