#include "attention/overflow.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "iterate/row.hpp"

namespace attn::detail {
namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();

/// The probabilities are rounded, and so a mean of values at the limit may be beyond it by a
/// little.
float to_float(double mean) {
  constexpr double limit = std::numeric_limits<float>::max();
  const bool rounded_beyond = std::abs(mean) > limit && std::abs(mean) < limit * (1 + 0x1p-16);
  return static_cast<float>(rounded_beyond ? std::copysign(limit, mean) : mean);
}

}  // namespace

void exponentiate(const QueryTile& tile, float row_max, float scale) noexcept {
  const KeyRange keys = tile.range(0);
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    float& score = tile.row(0)[j];
    if (score != hidden) score = static_cast<float>(std::exp((double{score} - row_max) * scale));
  }
}

void OverflowedSums::repair(const FinalRow& row, RowProbabilities& probabilities,
                            float* out) const {
  const std::int64_t v_head_dim = context_.sizes().v_head_dim;
  for (std::int64_t first = 0; first < v_head_dim; first += max_columns) {
    Columns columns{first, std::min(max_columns, v_head_dim - first), {}};
    float* const part = out + first;
    bool any = false;
    for (std::int64_t n = 0; n < columns.count; ++n)
      any |= columns.wrong[n] = !std::isfinite(part[n]) || std::abs(part[n]) < row.small_below;
    if (!any || follow_from_values(row, columns, part)) continue;
    double sums[max_columns] = {};
    for (std::int64_t block = row.rows.first_block; block <= row.rows.last_block; ++block)
      add(probabilities.probabilities_of(row.rows, row.r, block), columns, sums);
    for (std::int64_t n = 0; n < columns.count; ++n) {
      if (columns.wrong[n]) part[n] = to_float(sums[n] * row.factor);
    }
  }
}

/// Whether each wrong column has the visible value that it follows from, so that nothing need be
/// computed. That can only be said where the range of a row has no hidden keys.
bool OverflowedSums::follow_from_values(const FinalRow& row, Columns columns,
                                        const float* out) const {
  if (context_.scores.dense_visibility() || context_.scores.transforms()) return false;
  const QueryBlock& rows = row.rows;
  const KeyRange keys = intersection(
      rows.head.visibility.range_of((rows.first + row.r) / context_.sizes().group_size),
      rows.visible_to_any);
  std::int64_t left = std::count(columns.wrong, columns.wrong + columns.count, true);
  for (std::int64_t key = keys.begin; key < keys.end && left > 0; ++key) {
    const float* const v = value(rows, key, columns);
    for (std::int64_t n = 0; n < columns.count; ++n) {
      const bool follows =
          std::isnan(v[n]) ? std::isnan(out[n]) : std::isinf(v[n]) && v[n] == out[n];
      if (!columns.wrong[n] || !follows) continue;
      columns.wrong[n] = false;
      --left;
    }
  }
  return left == 0;
}

void OverflowedSums::add(const QueryTile& tile, const Columns& columns, double* sums) const {
  const KeyRange keys = tile.range(0);
  for (std::int64_t j = keys.begin; j < keys.end; ++j) {
    const double probability = tile.row(0)[j];
    if (probability == hidden) continue;
    const float* const v = value(*tile.block_rows, tile.block_begin + j, columns);
    for (std::int64_t n = 0; n < columns.count; ++n) sums[n] += probability * v[n];
  }
}

const float* OverflowedSums::value(const QueryBlock& rows, std::int64_t key,
                                   const Columns& columns) const {
  const Row row = context_.layout.keys(rows.head.batch, rows.head.kv_head, key, 1).value(0);
  return as_floats(row.from(columns.first), columns.count, context_.kernels(), staging_);
}

}  // namespace attn::detail
