// The elementwise part of the backward pass for sparsemax and entmax. A row's threshold, the mean
// of dP over its slopes, and the greatest slope are found once, from all of its keys; its P and dS
// are made again from them for any part of the row.
#pragma once

#include <cstdint>

#include "kernels/kernels.hpp"
#include "softmax/row_functions.hpp"

namespace attn::detail {

struct EntmaxRowGradient {
  EntmaxThreshold threshold;
  float steepest;  // the probability with the greatest slope; 0 if none is above 0
  double mean;     // sum g dP / sum g
};

/// `scores` of a row, with room for a sink in scores[count]; -inf hides. dP of the sink is 0.
/// Overwrites the scores, and dP of hidden keys. `search` has room for 2 * (count + 1) floats.
struct EntmaxScores {
  float* scores;
  float* gradients;  // dP
  std::int64_t count;
  float sink;  // -inf: none
  float* search;
};
struct EntmaxRowResult {
  EntmaxRowGradient row;
  double sink_term;  // the gradient of the sink
};
EntmaxRowResult find_entmax_gradient(const kernels::Kernels& kernels, const EntmaxScores& row,
                                     float alpha) noexcept;

/// GradientKernels' contract, with the rows of the tile in `rows`.
void entmax_gradient(const kernels::Kernels& kernels, const kernels::GradientTile& tile,
                     const EntmaxRowGradient* rows) noexcept;

}  // namespace attn::detail
