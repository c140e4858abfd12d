#include "backward/score_sums.hpp"

#include <algorithm>

#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

/// The indices of a dim of the call that an index of the mask stands for: itself, or all of them.
KeyRange indices_of(std::int64_t index, std::int64_t extent, std::int64_t all) {
  return extent == 1 ? KeyRange{0, all} : KeyRange{index, index + 1};
}

}  // namespace

void ScoreSums::start_column(const ColumnScratch& scratch) const noexcept {
  if (!sums(MaskSums::columns)) return;
  std::fill_n(scratch.column_sums, context_.sizes().group_size * context_.blocking().kv_block, 0.0);
}

void ScoreSums::start_rows(const HeadSlot& slot, std::int64_t chunk, std::int64_t first,
                           std::int64_t count) const noexcept {
  const std::int64_t offset = chunk * context_.plan.padded_rows + first;
  if (slot.distance_sums != nullptr) std::fill_n(slot.distance_sums + offset, count, 0.0);
  if (slot.score_sums != nullptr) std::fill_n(slot.score_sums + offset, count, 0.0);
}

void ScoreSums::add(const Run& run, const HeadSlot& slot, std::int64_t chunk,
                    const ColumnScratch& scratch) const noexcept {
  const std::int64_t count = run.keys.size();
  const std::int64_t row = chunk * context_.plan.padded_rows + run.row;
  const QueryRow& query = run.query;
  if (slot.distance_sums != nullptr) {
    double& sum = slot.distance_sums[row];
    sum = context_.kernels().distance_sum(run.gradient, count, query.q_position - run.keys.begin,
                                          sum);
  }
  if (slot.score_sums != nullptr) {
    double& sum = slot.score_sums[row];
    for (std::int64_t n = 0; n < count; ++n) sum += run.gradient[n];
  }
  if (sums(MaskSums::columns)) {
    const std::int64_t member = run.row % context_.sizes().group_size;
    double* const to = scratch.column_sums + member * context_.blocking().kv_block + run.first_key;
    for (std::int64_t n = 0; n < count; ++n) to[n] += run.gradient[n];
  }
  if (sums(MaskSums::elements)) {
    const KeyRange covered = dmask_.covered(query.batch, run.keys);
    if (covered.empty()) return;
    auto* const to = reinterpret_cast<float*>(const_cast<std::byte*>(
        dmask_.element(query.batch, query.q_head, query.q_index, covered.begin)));
    const float* const gradient = run.gradient + (covered.begin - run.keys.begin);
    for (std::int64_t n = 0; n < covered.size(); ++n) to[n * dmask_.strides[3]] += gradient[n];
  }
}

void ScoreSums::finish_column(const HeadQueries& head, KeyRange keys,
                              const ColumnScratch& scratch) const noexcept {
  if (!sums(MaskSums::columns)) return;
  const Sizes& sizes = context_.sizes();
  for (std::int64_t member = 0; member < sizes.group_size; ++member) {
    const std::int64_t q_head = head.kv_head * sizes.group_size + member;
    std::copy_n(scratch.column_sums + member * context_.blocking().kv_block, keys.size(),
                shared_.column_sums + (head.batch * sizes.num_q_heads + q_head) * sizes.kv_len +
                    keys.begin);
  }
}

void ScoreSums::start() const noexcept {
  const Sizes& sizes = context_.sizes();
  if (sums(MaskSums::columns))
    std::fill_n(shared_.column_sums, sizes.batch * sizes.num_q_heads * sizes.kv_len, 0.0);
  if (!sums(MaskSums::elements)) return;
  const MutableTensorView& dmask = context_.gradients.dmask;
  for_each_index(dmask.shape, [&](const Dims& index) {
    *reinterpret_cast<float*>(address_of(dmask, index)) = 0;
  });
}

template <class SumOf>
void ScoreSums::write_per_head(const MutableTensorView& to, double factor, SumOf sum_of) const {
  for (std::int64_t q_head = 0; q_head < context_.sizes().num_q_heads; ++q_head) {
    *reinterpret_cast<float*>(address_of(to, q_head)) = static_cast<float>(factor * sum_of(q_head));
  }
}

KeyRange ScoreSums::queries_of(std::int64_t batch, KeyRange among) const noexcept {
  const std::int64_t first = dmask_.lengths.first_query(batch);
  return intersection({among.begin - first, among.end - first}, {0, dmask_.lengths.q_len(batch)});
}

/// sum_of(batch, head, queries, column) is added up over what each element stands for.
template <class SumOf>
void ScoreSums::write_mask(SumOf sum_of) const {
  const MutableTensorView& dmask = context_.gradients.dmask;
  const Sizes& sizes = context_.sizes();
  const std::array<std::int64_t, 3>& extents = dmask_.extents;
  const bool ragged = dmask_.lengths.ragged_queries();
  const std::int64_t all_queries = ragged ? context_.forward.tensors.q.shape[0] : sizes.q_len;
  const Dims all{extents[0], extents[1], extents[2], dmask.shape[dmask.rank() - 1]};
  std::int64_t n = 0;
  for_each_index(dmask.shape, [&](const Dims& index) {
    const Dims at = index_of(all, n++);
    const KeyRange of_heads = indices_of(at[1], extents[1], sizes.num_q_heads);
    const KeyRange of_queries = indices_of(at[2], extents[2], all_queries);
    KeyRange batches = indices_of(at[0], extents[0], sizes.batch);
    if (ragged && extents[2] != 1) {
      const std::int64_t batch = dmask_.lengths.sequence_of(at[2]);
      batches = {batch, batch + 1};
    }
    double sum = 0;
    for (std::int64_t b = batches.begin; b < batches.end; ++b) {
      for (std::int64_t h = of_heads.begin; h < of_heads.end; ++h)
        sum += sum_of(b, h, queries_of(b, of_queries), at[3]);
    }
    *reinterpret_cast<float*>(address_of(dmask, index)) = static_cast<float>(sum);
  });
}

void ScoreSums::write(const BackwardSchedule& schedule) const noexcept {
  const Sizes& sizes = context_.sizes();
  // The rows of a query head: every group_size-th row of its KV head, beginning with its own.
  const auto over_queries = [&](const double* rows, std::int64_t batch, std::int64_t q_head,
                                KeyRange queries) {
    const std::int64_t head = batch * sizes.num_kv_heads + q_head / sizes.group_size;
    const std::int64_t first = schedule.head(head).first_row + q_head % sizes.group_size;
    double sum = 0;
    for (std::int64_t q = queries.begin; q < queries.end; ++q)
      sum += rows[first + q * sizes.group_size];
    return sum;
  };
  const auto over_batch = [&](const double* rows) {
    return [&, rows](std::int64_t q_head) {
      double sum = 0;
      for (std::int64_t b = 0; b < sizes.batch; ++b)
        sum += over_queries(rows, b, q_head, {0, context_.forward.layout.q_len(b)});
      return sum;
    };
  };
  if (shared_.distance_sums != nullptr)
    write_per_head(context_.gradients.dalibi, -1, over_batch(shared_.distance_sums));
  if (shared_.sink_terms != nullptr)
    write_per_head(context_.gradients.dsinks, 1, over_batch(shared_.sink_terms));
  if (sums(MaskSums::rows)) {
    write_mask([&](std::int64_t b, std::int64_t h, KeyRange queries, std::int64_t) {
      return over_queries(shared_.score_sums, b, h, queries);
    });
  }
  if (sums(MaskSums::columns)) {
    write_mask([&](std::int64_t b, std::int64_t h, KeyRange, std::int64_t column) {
      const std::int64_t key = dmask_.first_key(b) + column;
      if (key < 0) return 0.0;
      return shared_.column_sums[(b * sizes.num_q_heads + h) * sizes.kv_len + key];
    });
  }
}

std::int64_t ScoreSums::head_before(const BackwardSchedule& schedule, std::int64_t head,
                                    std::int64_t column) const noexcept {
  if (!sums(MaskSums::elements)) return -1;
  const Sizes& sizes = context_.sizes();
  const bool batches_share = dmask_.batch_shares_rows(), heads_share = dmask_.strides[1] == 0;
  if (!batches_share && !heads_share) return -1;
  const std::int64_t step = heads_share ? 1 : sizes.num_kv_heads;
  const std::int64_t first =
      batches_share ? head % step : head / sizes.num_kv_heads * sizes.num_kv_heads;
  for (std::int64_t before = head - step; before >= first; before -= step) {
    if ((heads_take_turns() ? 0 : column) < schedule.head(before).columns.count) return before;
  }
  return -1;
}

}  // namespace attn::detail
