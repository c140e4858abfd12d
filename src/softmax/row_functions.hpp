// What the family does with one slice, as a dense row of floats. y may be x. Values as softmax.hpp says, special ones included.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn {

/// -inf for no elements; NaN if there is one.
float greatest(const kernels::Kernels& kernels, const float* x, std::int64_t count) noexcept;

/// log sum_j exp(x_j / temperature)
float logsumexp_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature) noexcept;
void softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept;
void log_softmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float temperature, float* y) noexcept;

struct RowThreshold {
  float tau;
  std::int64_t support;
};
/// Any alpha >= 1. scratch: 2 * count floats. y is the probabilities and may be null, if only the threshold is wanted.
RowThreshold entmax_row(const kernels::Kernels& kernels, const float* x, std::int64_t count, float alpha, float* y,
                        float* scratch) noexcept;

}  // namespace attn
