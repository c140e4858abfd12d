#include "attention/probabilities.hpp"

#include <cmath>
#include <limits>

#include "softmax/row_functions.hpp"

namespace attn::detail {

float sigmoid_bias(const Normalizer& normalizer, std::int64_t kv_len) noexcept {
  const double by_length = -std::log(static_cast<double>(kv_len));
  return normalizer.bias().value_or(static_cast<float>(by_length));
}

void normalize_row(const kernels::Kernels& kernels, const Normalizer& normalizer,
                   const RowOfScores& row) noexcept {
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    return kernels.sigmoid(row.scores, row.count, sigmoid_bias(normalizer, row.kv_len));
  }
  constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  // If the sink is the only score, all probabilities are 0.
  const bool sink_joins =
      row.sink != minus_infinity && greatest(kernels, row.scores, row.count) != minus_infinity;
  std::int64_t count = row.count;
  if (sink_joins) row.scores[count++] = row.sink;
  entmax_row(kernels, row.scores, count, normalizer.alpha(), row.scores, row.scratch);
}

}  // namespace attn::detail
