#include "backward/rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/probabilities.hpp"
#include "iterate/row.hpp"

namespace attn::detail {
namespace {

constexpr float log2e = 1.44269504088896341f;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

double sum_of_chunks(const double* sums, std::int64_t rows, std::int64_t row, KeyRange chunks) {
  double sum = 0;
  for (std::int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk)
    sum += sums[chunk * rows + row];
  return sum;
}

/// An lse whose rounding would be seen in probabilities, by more than 1e-5.
bool is_large(float lse) { return std::isfinite(lse) && std::fabs(lse) > 177; }

}  // namespace

QueryBlock BackwardRows::block_of(const HeadQueries& head, std::int64_t q_block) const {
  const std::int64_t first = q_block * context_.blocking().q_block;
  return tiles_.block_of(head, first, std::min(context_.blocking().q_block, head.rows - first),
                         all_keys);
}

/// Packs rows for the products over their dims and, where that is another form, for those over
/// rows.
template <class RowOf>
void BackwardRows::pack(const QueryBlock& rows, const Operands& to, RowOf row_of) {
  const kernels::Kernels& kernels = context_.kernels();
  float* const staging = own_.tiles.staging;
  if (!context_.pairs()) {
    if (to.row_stride != 0 && row_of(0).dense_f32() &&
        kernels.f32.pack_finite(row_of(0).floats(), to.row_stride, rows.count, to.width, to.rows,
                                to.layout)) {
      std::fill_n(to.finite, rows.count, std::uint8_t{1});
      return;
    }
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const float* const row = as_floats(row_of(r), to.width, kernels, staging);
      to.finite[r] =
          kernels.f32.pack_finite(row, 0, 1, to.width, to.rows + r * to.stride, to.layout);
    }
    return;
  }
  for (std::int64_t r = 0; r < rows.count; ++r)
    read_packed(row_of(r), to.width, 2, kernels, to.rows + r * to.stride);
  const bool good = kernels.bf16.pack_finite(to.rows, 2 * to.stride, rows.count, to.width,
                                             to.summed_rows, to.layout);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    if (!good) read_row(row_of(r), to.width, kernels, staging);
    to.finite[r] = good || kernels.all_finite(staging, to.width);
  }
}

void BackwardRows::prepare(const HeadQueries& head, std::int64_t q_block, const HeadSlot& slot,
                           std::int64_t first_row) {
  const BackwardPlan& plan = context_.plan;
  const QueryBlock rows = block_of(head, q_block);
  const bool one_head = context_.sizes().group_size == 1;
  const std::int64_t first = rows.first, summed = first / context_.blocking().vnni_factor;
  pack(rows,
       {slot.queries + first * plan.query_stride, slot.query_rows + summed * plan.key_width,
        slot.query_finite + first, context_.sizes().head_dim, plan.query_stride,
        one_head ? context_.forward.layout.query_stride() : 0, plan.key_rows},
       [&](std::int64_t r) { return tiles_.query(rows, r); });
  const std::int64_t value_width = context_.blocking().value_width;
  pack(rows,
       {slot.douts + first * plan.dout_stride, slot.dout_rows + summed * value_width,
        slot.dout_finite + first, context_.sizes().v_head_dim, plan.dout_stride,
        one_head ? context_.gradient_layout.output_stride() : 0, plan.dout_rows},
       [&](std::int64_t r) {
         const QueryRow query = tiles_.query_row(rows, r);
         return context_.gradient_layout.output(query.batch, query.q_head, query.q_index);
       });
  if (context_.plan.extras.full_rows) return find_thresholds(rows, slot, first_row);
  bool any_large = false;
  for (std::int64_t r = 0; r < rows.count; ++r) {
    find_statistics(rows, r, slot, first_row);
    any_large |= is_softmax() && is_large(lse_of(rows, r));
  }
  if (any_large) find_exact_lse(rows, slot, first_row);
}

/// The sum of dout * O. O is 0 where no key was seen; then dout does not count, whatever it is.
double BackwardRows::delta_of(const QueryRow& query) {
  const kernels::Kernels& kernels = context_.kernels();
  const std::int64_t width = context_.sizes().v_head_dim;
  float* const staging = own_.tiles.staging;
  const Row out_row = context_.forward.layout.output(query.batch, query.q_head, query.q_index);
  const Row dout_row = context_.gradient_layout.output(query.batch, query.q_head, query.q_index);
  const float* const out = as_floats(out_row, width, kernels, staging);
  const float* const dout = as_floats(dout_row, width, kernels, staging + width);
  if (std::all_of(out, out + width, [](float o) { return o == 0; })) return 0;
  return kernels.rows.dot(dout, out, width);
}

void BackwardRows::find_statistics(const QueryBlock& rows, std::int64_t r, const HeadSlot& slot,
                                   std::int64_t first_row) {
  const std::int64_t row = rows.first + r;
  const QueryRow query = tiles_.query_row(rows, r);
  const Normalizer& normalizer = context_.forward.call.problem.normalizer;
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    const std::int64_t kv_len = context_.forward.layout.kv_len(query.batch);
    slot.shift[row] = sigmoid_bias(normalizer, kv_len);
    slot.mean[row] = 0;
    return;
  }
  const float lse = lse_of(rows, r);
  const float* const dlse = context_.gradient_layout.lse(query.batch, query.q_head, query.q_index);
  const double mean = delta_of(query) - static_cast<double>(dlse == nullptr ? 0 : *dlse);
  slot.base[row] = 0;
  slot.shift[row] = lse * log2e;
  slot.mean[row] = static_cast<float>(mean);
  const double sink = tiles_.sink(query);
  const bool no_sink = sink == -std::numeric_limits<double>::infinity();
  keep_sink_term(first_row + row, no_sink ? 0 : -mean * std::exp(sink - static_cast<double>(lse)));
}

void BackwardRows::ExactSum::add(float score, double scale) {
  if (score == minus_infinity) return;
  if (score > maximum) {
    sum *= std::exp(scale * (double{maximum} - double{score}));
    maximum = score;
  }
  sum += std::exp(scale * (double{score} - double{maximum}));
}

/// A large lse, as where a mask adds -1e9 to all keys of a row, has no digits left for the
/// logarithm of the sum. So the greatest score and the sum are found again, if they agree with the
/// lse that was given: that of other keys as well, as of a sequence in parts, may be greater.
void BackwardRows::find_exact_lse(const QueryBlock& rows, const HeadSlot& slot,
                                  std::int64_t first_row) {
  ExactSum sums[most_tiles * kernels::tile_rows];
  const double scale = context_.forward.scores.remaining_scale();
  const std::int64_t kv_len = context_.forward.layout.kv_len(rows.head.batch);
  if (rows.visible_to_any.empty()) return;
  for (std::int64_t column = rows.first_block; column <= rows.last_block; ++column) {
    keys_.pack(rows.head, intersection(tiles_.block_keys(column), {0, kv_len}));
    for (std::int64_t first = 0; first < rows.count; first += kernels::tile_rows) {
      QueryTile tile =
          tiles_.tile_of(rows, first, std::min(kernels::tile_rows, rows.count - first), column);
      if (tile.visible_range.empty()) continue;
      tile.scores = own_.probabilities;
      tile.score_stride = score_stride(context_.blocking());
      keys_.multiply(slot, tile, own_.gradients);
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        if (!is_large(lse_of(rows, first + r))) continue;
        for (std::int64_t j = tile.begin[r]; j < tile.end[r]; ++j)
          sums[first + r].add(tile.row(r)[j], scale);
      }
    }
  }
  for (std::int64_t r = 0; r < rows.count; ++r) {
    if (is_large(lse_of(rows, r)) && sums[r].sum > 0)
      keep_exact_lse(rows, r, sums[r], slot, first_row);
  }
}

/// Where the given lse is greater than that of these keys, probabilities follow from it alone, and
/// are 1 at most.
void BackwardRows::keep_exact_lse(const QueryBlock& rows, std::int64_t r, const ExactSum& row_sum,
                                  const HeadSlot& slot, std::int64_t first_row) {
  const std::int64_t row = rows.first + r;
  const double scale = context_.forward.scores.remaining_scale();
  const double given = lse_of(rows, r), greatest = scale * double{row_sum.maximum};
  const double sink = tiles_.sink(tiles_.query_row(rows, r));
  const bool has_sink = sink != -std::numeric_limits<double>::infinity();
  const double sum = row_sum.sum + (has_sink ? std::exp(sink - greatest) : 0);
  const double unit = std::fabs(given) * 0x1p-23;
  if (!(std::fabs(greatest + std::log(sum) - given) <= 2 * unit)) {
    slot.base[row] = std::max(static_cast<float>(given / scale), row_sum.maximum);
    slot.shift[row] = 0;
    return;
  }
  slot.base[row] = row_sum.maximum;
  slot.shift[row] = static_cast<float>(std::log2(sum));
  if (has_sink)
    keep_sink_term(first_row + row, -double{slot.mean[row]} * std::exp(sink - greatest) / sum);
}

float BackwardRows::lse_of(const QueryBlock& rows, std::int64_t r) const {
  const QueryRow query = tiles_.query_row(rows, r);
  return *context_.forward.layout.lse(query.batch, query.q_head, query.q_index);
}

bool BackwardRows::is_softmax() const noexcept {
  return context_.forward.call.problem.normalizer.kind() == Normalizer::Kind::softmax;
}

void BackwardRows::keep_sink_term(std::int64_t row, double term) const {
  double* const sink_terms = scratch_.shared().sink_terms;
  if (sink_terms != nullptr) sink_terms[row] = term;
}

/// Sparsemax and entmax: the threshold of a row follows from all of its scores, and the mean of dP
/// from all of its probabilities.
void BackwardRows::find_thresholds(const QueryBlock& rows, const HeadSlot& slot,
                                   std::int64_t first_row) {
  const float alpha = context_.forward.call.problem.normalizer.alpha();
  const std::int64_t stride = row_stride(context_.blocking());
  const FullRows& full = own_.full_rows;
  if (!rows.visible_to_any.empty()) compute_full_rows(rows, slot);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const std::int64_t row = rows.first + r;
    const KeyRange seen = rows.head.visibility.range_of(row / context_.sizes().group_size);
    const EntmaxRowResult found = find_entmax_gradient(
        context_.kernels(),
        {.scores = full.scores + r * stride + (seen.empty() ? 0 : seen.begin),
         .gradients = full.gradients + r * stride + (seen.empty() ? 0 : seen.begin),
         .count = seen.size(),
         .sink = tiles_.sink(tiles_.query_row(rows, r)),
         .search = full.search},
        alpha);
    slot.thresholds[row] = found.row;
    keep_sink_term(first_row + row, found.sink_term);
  }
}

/// The scores of rows and their dP, each in full rows. Hidden keys within the range of a row have a
/// score of -inf.
void BackwardRows::compute_full_rows(const QueryBlock& rows, const HeadSlot& slot) {
  const std::int64_t stride = row_stride(context_.blocking());
  const std::int64_t kv_len = context_.forward.layout.kv_len(rows.head.batch);
  for (std::int64_t column = rows.first_block; column <= rows.last_block; ++column) {
    const KeyRange keys = tiles_.block_keys(column);
    keys_.pack(rows.head, intersection(keys, {0, kv_len}));
    for (std::int64_t first = 0; first < rows.count; first += kernels::tile_rows) {
      QueryTile tile =
          tiles_.tile_of(rows, first, std::min(kernels::tile_rows, rows.count - first), column);
      tile.scores = own_.full_rows.scores + first * stride + keys.begin;
      tile.score_stride = stride;
      if (!tile.visible_range.empty())
        keys_.multiply(slot, tile, own_.full_rows.gradients + first * stride + keys.begin);
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        const std::int64_t q_index = (rows.first + first + r) / context_.sizes().group_size;
        hide_outside(tile, r, intersection(rows.head.visibility.range_of(q_index), keys));
      }
    }
  }
}

/// Adds the copies of row r up, in their order, and writes it.
void BackwardRows::write_dq(const QueryBlock& rows, std::int64_t r, const HeadSlot& slot,
                            KeyRange chunks) {
  const kernels::Kernels& kernels = context_.kernels();
  const std::int64_t width = context_.sizes().head_dim, key_width = context_.plan.key_width;
  const std::int64_t copy = context_.plan.padded_rows * key_width;
  const QueryRow query = tiles_.query_row(rows, r);
  const Row to = context_.gradient_layout.query(query.batch, query.q_head, query.q_index);
  float* const sum = to.dense_f32() ? to.floats() : own_.tiles.staging;
  const float* const first = slot.dq + (rows.first + r) * key_width;
  kernels.sum_copies({first + chunks.begin * copy, copy, chunks.size()}, width,
                     context_.forward.call.problem.softmax_scale, sum);
  if (!to.dense_f32()) write_row(sum, width, kernels, to);
}

void BackwardRows::finish(const HeadQueries& head, std::int64_t q_block, const HeadSlot& slot,
                          const Columns& columns, std::int64_t first_row) {
  const QueryBlock rows = block_of(head, q_block);
  KeyRange chunks{};
  if (!rows.visible_to_any.empty())
    chunks = {columns.chunk_of(rows.first_block), columns.chunk_of(rows.last_block) + 1};
  const BackwardScratch::Shared& shared = scratch_.shared();
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const std::int64_t row = rows.first + r;
    const auto total = [&](const double* sums) {
      return sum_of_chunks(sums, context_.plan.padded_rows, row, chunks);
    };
    if (!context_.gradients.dq.absent()) write_dq(rows, r, slot, chunks);
    if (slot.distance_sums != nullptr)
      shared.distance_sums[first_row + row] = total(slot.distance_sums);
    if (slot.score_sums != nullptr) shared.score_sums[first_row + row] = total(slot.score_sums);
  }
}

}  // namespace attn::detail
