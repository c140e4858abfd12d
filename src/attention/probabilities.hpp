// From a row's scores to its weights, with the normalizers that are no online softmax.
#pragma once

#include <attn/normalizer.hpp>

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

struct RowOfScores {
  float* scores;  // with room for one more
  std::int64_t count;
  std::int64_t kv_len;  // of the batch entry
  float sink;           // -inf: none
  float* scratch;       // 2 * (count + 1)
};

/// In place. Scores of -inf, and all scores where there are no others, become 0.
void weigh_row(const kernels::Kernels& kernels, const Normalizer& normalizer,
               const RowOfScores& row) noexcept;

}  // namespace attn::detail
