#include "attention/probabilities.hpp"

#include <cmath>
#include <limits>

#include "softmax/row_functions.hpp"

namespace attn::detail {

void normalize_row(const kernels::Kernels& kernels, const Normalizer& normalizer,
                   const RowOfScores& row) noexcept {
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    const double by_length = -std::log(static_cast<double>(row.kv_len));
    return kernels.sigmoid(row.scores, row.count,
                           normalizer.bias().value_or(static_cast<float>(by_length)));
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
