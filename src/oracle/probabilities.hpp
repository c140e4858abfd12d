// From the masked scores of a row to its probabilities and back to the scores' gradients, in
// double, by the formulas of the normalizers. The engine's normalizers are measured against this
// file.
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

/// The gradients of a row's scores from those of its probabilities. `dlse` is the gradient of lse,
/// which only softmax has. A sink is one more score, whose value is 0, as is dprobabilities there.
std::vector<double> score_gradients(const Normalizer& normalizer,
                                    const std::vector<double>& probabilities,
                                    const std::vector<double>& dprobabilities, double dlse);

}  // namespace attn::detail
