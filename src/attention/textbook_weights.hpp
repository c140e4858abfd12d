// From a row's masked scores to its weights, in double, as the formulas have it: what the
// normalizers are measured against.
#pragma once

#include <attn/normalizer.hpp>

#include <cstdint>
#include <vector>

namespace attn::detail {

/// Scores of -inf weigh nothing; where there are no others, all weights are 0. `sink` is one more
/// score, or -inf; kv_len the number of keys of the batch entry. Returns lse, which others than
/// softmax do not have: NaN.
double weigh(const Normalizer& normalizer, double sink, std::int64_t kv_len,
             std::vector<double>& scores);

}  // namespace attn::detail
