#include "support/check.hpp"

#include <attn/reference.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "oracle/tolerance.hpp"

namespace attn::test {
namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

double largest_finite(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

bool agree(double got, double wanted, double tolerance) {
  if (std::isnan(wanted)) return std::isnan(got);
  return got == wanted || std::abs(got - wanted) <= tolerance;
}

/// Converts K or V of i8 to f64.
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

}  // namespace

Expected expected_of(const Case& c, const Inputs& stored_inputs) {
  const Inputs inputs = dequantized(stored_inputs);
  Outputs truth = reference(c, inputs);
  const AttentionTensors call = bind(inputs, truth);
  const detail::Tolerance tolerance = detail::derive_tolerance(
      call, call, c.options, c.out_type, c.kv_type, detail::ProbabilityRounding::bounded);
  Expected expected{truth.out.values(), truth.lse.values(), tolerance.out, tolerance.lse};
  // The reference and the plain program interpret the call independently. If they disagreed, the
  // tolerance would hide any error.
  const double other_terms = tolerance.out - 2 * tolerance.plain_error;
  CHECK(tolerance.plain_error <=
        100 * eps * std::max(1.0, largest_finite(expected.lse)) * tolerance.largest_value +
            other_terms);
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
