// From the masked scores of a row to its probabilities, in double, by the formulas of the
// normalizers. The engine's normalizers are measured against this file.
#pragma once

#include <attn/normalizer.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

/// Replaces the scores of a row by probabilities. A score of -inf becomes 0, also in a row that has
/// no other. `sink` is one more score, or -inf. `kv_len` is the number of keys of the sequence,
/// which sigmoid's default bias depends on. Returns lse, which is defined for softmax only; else
/// NaN.
double probabilities_of_scores(const Normalizer& normalizer, double sink, std::int64_t kv_len,
                               std::vector<double>& scores);

}  // namespace attn::detail
