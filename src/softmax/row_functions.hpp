// What the family does with slices, as dense rows of floats. y may be x. Values as softmax.hpp
// says, special ones included.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// -inf for no elements; NaN if there is one.
float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept;

// Of a few rows, at most kernels::rows_at_once, each with a result of its own.

/// log sum_j exp(x_j / temperature)
void logsumexp_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x, float temperature,
                    float* out) noexcept;
/// log sum_j exp(x_j) = shift + rest. shift is the greatest element, so that its term is 1 exactly
/// and rest has all that the others add: log p_c = (x_c - shift) - rest loses nothing in double,
/// neither to large x nor where one element has nearly all of the weight.
struct LogSum {
  float shift;  // 0: there is none above -inf
  double rest;  // -inf then
};
void log_sum_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x,
                  LogSum* log_sums) noexcept;
void softmax_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x, float temperature,
                  const kernels::FloatRowsOut& y) noexcept;
void log_softmax_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x,
                      float temperature, const kernels::FloatRowsOut& y) noexcept;

/// What logsumexp's gradient knows of a slice: the gradient of its value, and the value.
struct LogsumexpGradient {
  float dout;
  float out;
  float temperature;
};
/// dx_j = dout exp(x_j / temperature - out) / temperature; zeros where out is -inf.
void logsumexp_gradient_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                            const LogsumexpGradient& gradient, float* dx) noexcept;

struct RowThreshold {
  float tau;
  std::int64_t support;
};
/// Any alpha >= 1. scratch: 2 * count floats. y is the probabilities and may be null, if only the
/// threshold is wanted.
RowThreshold entmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                        float alpha, float* y, float* scratch) noexcept;

}  // namespace attn::detail
