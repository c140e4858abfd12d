#include "attention/overflow.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

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
    for (std::int64_t n = 0; n < columns.count; ++n)
      columns.wrong[n] = std::abs(part[n]) < row.small_below;
    keep_tiny(row, probabilities, columns);
    bool any = false;
    for (std::int64_t n = 0; n < columns.count; ++n)
      any |= columns.wrong[n] |= !std::isfinite(part[n]);
    if (!any || follow_from_values(row, columns, part)) continue;
    double sums[max_columns] = {};
    for (std::int64_t block = row.rows.first_block; block <= row.rows.last_block; ++block)
      add(probabilities.probabilities_of(row.rows, row.r, block), columns, sums);
    for (std::int64_t n = 0; n < columns.count; ++n) {
      if (columns.wrong[n]) part[n] = to_float(sums[n] * row.factor);
    }
  }
}

KeyRange OverflowedSums::keys_of(const FinalRow& row) const {
  const QueryBlock& rows = row.rows;
  return intersection(
      rows.head.visibility.range_of((rows.first + row.r) / context_.sizes().group_size),
      rows.visible_to_any);
}

/// Keeps those of the wrong columns in which a visible key has a tiny value. What hidden keys hold,
/// and what other rows see, must not count: it is why the row is looked at, but would also change
/// with the number of threads.
void OverflowedSums::keep_tiny(const FinalRow& row, RowProbabilities& probabilities,
                               Columns& columns) const {
  const std::span<const bool> wrong(columns.wrong, static_cast<std::size_t>(columns.count));
  if (std::find(wrong.begin(), wrong.end(), true) == wrong.end()) return;
  bool tiny[max_columns] = {};
  const std::int64_t kv_block = row.rows.kv_block;
  for (std::int64_t block = row.rows.first_block; block <= row.rows.last_block; ++block) {
    const KeyRange keys = intersection(keys_of(row), {block * kv_block, (block + 1) * kv_block});
    if (!probabilities.may_have_tiny_values(block) || !any_tiny(row.rows, keys, columns)) continue;
    const QueryTile tile = probabilities.probabilities_of(row.rows, row.r, block);
    const KeyRange seen = tile.visible_range.empty() ? KeyRange{} : tile.range(0);
    for (std::int64_t j = seen.begin; j < seen.end; ++j) {
      if (tile.row(0)[j] != hidden) mark_tiny(row.rows, tile.block_begin + j, columns, tiny);
    }
  }
  std::copy_n(tiny, columns.count, columns.wrong);
}

/// Whether any of the keys, hidden or not, has a tiny value in a wrong column.
bool OverflowedSums::any_tiny(const QueryBlock& rows, KeyRange keys, const Columns& columns) const {
  bool tiny[max_columns] = {};
  for (std::int64_t key = keys.begin; key < keys.end; ++key) mark_tiny(rows, key, columns, tiny);
  return std::find(tiny, tiny + columns.count, true) != tiny + columns.count;
}

/// Marks the wrong columns in which the key's value is tiny: its element or, of i8, its scale.
void OverflowedSums::mark_tiny(const QueryBlock& rows, std::int64_t key, const Columns& columns,
                               bool* tiny) const {
  const Row row = context_.layout.keys(rows.head.batch, rows.head.kv_head, key, 1).value(0);
  const float* const v = value(rows, key, columns);
  for (std::int64_t n = 0; n < columns.count; ++n) {
    const float size = row.dtype == DType::i8 ? row.scale : v[n];
    tiny[n] |= columns.wrong[n] && v[n] != 0 && std::abs(size) < kernels::tiny_bf16;
  }
}

/// Whether each wrong column has the visible value that it follows from, so that nothing need be
/// computed. That can only be said where the range of a row has no hidden keys.
bool OverflowedSums::follow_from_values(const FinalRow& row, Columns columns,
                                        const float* out) const {
  if (context_.scores.dense_visibility() || context_.scores.transforms()) return false;
  const KeyRange keys = keys_of(row);
  std::int64_t left = std::count(columns.wrong, columns.wrong + columns.count, true);
  for (std::int64_t key = keys.begin; key < keys.end && left > 0; ++key) {
    const float* const v = value(row.rows, key, columns);
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
