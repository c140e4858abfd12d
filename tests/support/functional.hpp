// Tensors in any layout and type, and tolerances, for tests of functions of tensors.
#pragma once

#include <attn/execution.hpp>
#include <attn/isa.hpp>
#include <attn/tensor.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

namespace attn::test {

inline constexpr std::initializer_list<DType> float_types = {DType::f32, DType::bf16, DType::f16};
inline constexpr std::initializer_list<Layout> all_layouts = {
    Layout::bhsd, Layout::bshd, Layout::padded, Layout::strided_dim, Layout::reversed};
inline constexpr double float_unit = 0x1p-24;  // the largest relative error of rounding to f32

/// The largest error of rounding to a type: relative, or half of the smallest step.
inline double rounding_to(DType dtype, double value) {
  switch (dtype) {
    case DType::bf16: return std::max(std::fabs(value) * 0x1p-8, 0x1p-134);
    case DType::f16: return std::max(std::fabs(value) * 0x1p-11, 0x1p-25);
    default: return std::max(std::fabs(value) * 0x1p-24, 0x1p-150);
  }
}

inline StridedTensor tensor_of(DType dtype, const Dims& shape, Layout layout,
                               const std::vector<double>& values) {
  StridedTensor tensor(dtype, shape, layout);
  tensor.assign(values);
  return tensor;
}

inline std::vector<double> normal_values(Random& random, std::int64_t count, double mean = 0,
                                         double deviation = 1) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = mean + deviation * random.normal();
  return values;
}

/// An empty string if each value lies within its tolerance, where NaN matches NaN and an infinity
/// itself; otherwise a description of the first place that does not.
template <class Tolerance>
std::string first_difference(const std::vector<double>& got, const std::vector<double>& wanted,
                             Tolerance tolerance) {
  if (got.size() != wanted.size())
    return fmt::format("{} values for {}", got.size(), wanted.size());
  for (std::size_t n = 0; n < got.size(); ++n) {
    const bool same = got[n] == wanted[n] || (std::isnan(got[n]) && std::isnan(wanted[n]));
    if (same || std::fabs(got[n] - wanted[n]) <= tolerance(n)) continue;
    return fmt::format("value {} is {:.9g}; wanted {:.9g} within {:.3g}", n, got[n], wanted[n],
                       tolerance(n));
  }
  return {};
}

}  // namespace attn::test
