// Calls with another normalizer than softmax.
#pragma once

#include <attn/normalizer.hpp>

#include <vector>

#include "support/case.hpp"

namespace attn::test {

/// Normalizers whose probabilities change by no more than the scores, so that the error of a plain
/// float program bounds what rounding may cost.
inline std::vector<Normalizer> gentle() {
  return {Normalizer::sigmoid(), Normalizer::sigmoid(0.5f), Normalizer::entmax(1.25f),
          Normalizer::entmax(1.5f), Normalizer::sparsemax()};
}

inline bool is_sigmoid(const Normalizer& normalizer) {
  return normalizer.kind() == Normalizer::Kind::sigmoid;
}

inline Case usual(const Normalizer& normalizer) {
  return {.batch = 2,
          .num_q_heads = 4,
          .num_kv_heads = 2,
          .q_len = 23,
          .kv_len = 90,
          .head_dim = 24,
          .v_head_dim = 20,
          .options = {.normalizer = normalizer},
          .lse = false};
}

}  // namespace attn::test
