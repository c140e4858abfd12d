// The softmax family on dense rows of floats. Results for special values are as softmax.hpp says.
// An output row may be the memory of its input.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"
#include "softmax/entmax_root.hpp"

namespace attn::detail {

/// The greatest element: -inf for an empty row, NaN if an element is NaN.
float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept;

// The next four functions process a few rows, at most kernels::rows_at_once. Rows do not influence
// each other.

/// out[r] = log sum_j exp(x_j / temperature) for row r.
void logsumexp_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x, float temperature,
                    float* out) noexcept;

/// log sum_j exp(x_j) = shift + rest, where shift is the greatest element. That element's term
/// exp(x_j - shift) is exactly 1, and rest holds what the other elements add. log p_c is then
/// (x_c - shift) - rest, which in double loses no digits when x is large or when one element has
/// nearly all of the probability.
struct LogSum {
  float shift;  // 0 if no element is above -inf
  double rest;  // -inf in that case
};
void log_sum_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x,
                  LogSum* log_sums) noexcept;
void softmax_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x, float temperature,
                  const kernels::FloatRowsOut& y) noexcept;
void log_softmax_rows(const kernels::Kernels& kernels, const kernels::FloatRows& x,
                      float temperature, const kernels::FloatRowsOut& y) noexcept;

/// What the gradient of logsumexp needs for a row apart from x.
struct LogsumexpGradient {
  float dout;  // the gradient of out
  float out;   // logsumexp(x)
  float temperature;
};
/// dx_j = dout exp(x_j / temperature - out) / temperature; zeros if out is -inf.
void logsumexp_gradient_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                            const LogsumexpGradient& gradient, float* dx) noexcept;

struct RowThreshold {
  float tau;
  std::int64_t support;
};
/// The probabilities y of one row for any finite alpha >= 1, and their threshold. scratch has room
/// for 2 * count floats. y may be null if only the threshold is wanted.
RowThreshold entmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count,
                        float alpha, float* y, float* scratch) noexcept;

/// What the probabilities of a row of entmax follow from, so that those of any part of the row can
/// be computed again, to the bit.
struct EntmaxThreshold {
  float alpha;               // above 1
  float maximum;             // of the row. -inf: all probabilities are 0; +inf and NaN: all are NaN
  kernels::Threshold above;  // of x - maximum, for an alpha of 1.5 or 2
  EntmaxRoot root;           // for any other
  RowThreshold row;
};
/// The threshold of a row, for any finite alpha > 1. scratch has room for 2 * count floats.
EntmaxThreshold find_entmax_threshold(const kernels::Kernels& kernels, const float* x,
                                      std::int64_t count, float alpha, float* scratch) noexcept;
/// The probabilities y of elements x of that row.
void entmax_probabilities(const kernels::Kernels& kernels, const EntmaxThreshold& threshold,
                          const float* x, std::int64_t count, float* y) noexcept;

/// Throws Error(invalid_argument) for an alpha that entmax_row does not accept.
void require_alpha(float alpha);

}  // namespace attn::detail
