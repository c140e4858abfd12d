// From the scores of a row to its probabilities, for normalizers that are no online softmax.
#pragma once

#include <attn/normalizer.hpp>

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// What sigmoid adds to the scores of a sequence.
float sigmoid_bias(const Normalizer& normalizer, std::int64_t kv_len) noexcept;

struct RowOfScores {
  float* scores;  // [count], with room for one more
  std::int64_t count;
  std::int64_t kv_len;  // of the sequence
  float sink;           // -inf: none
  float* scratch;       // [2 * (count + 1)]
};

/// Normalizes a row in place. Scores of -inf become 0, and so do all scores if there are no others.
void normalize_row(const kernels::Kernels& kernels, const Normalizer& normalizer,
                   const RowOfScores& row) noexcept;

}  // namespace attn::detail
