#include "backward/score_sums.hpp"

#include <algorithm>

#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

/// The extents of a mask as [batch, head, query, key], and the indices of the whole call that an
/// index of the mask stands for: itself, or all of them.
struct Broadcast {
  Broadcast(const Dims& shape, const Sizes& sizes)
      : full{sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.kv_len}, own{1, 1, 1, 1} {
    for (int dim = 0; dim < shape.rank(); ++dim) own[4 - shape.rank() + dim] = shape[dim];
  }
  KeyRange covered(int dim, std::int64_t index) const noexcept {
    return own[dim] == 1 ? KeyRange{0, full[dim]} : KeyRange{index, index + 1};
  }

  Dims full, own;
};

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
    auto* to = reinterpret_cast<float*>(
        const_cast<std::byte*>(dmask_.row(query.batch, query.q_head, query.q_index)));
    to += run.keys.begin * dmask_.strides[3];
    for (std::int64_t n = 0; n < count; ++n) to[n * dmask_.strides[3]] += run.gradient[n];
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

template <class SumOf>
void ScoreSums::write_mask(SumOf sum_of) const {
  const MutableTensorView& dmask = context_.gradients.dmask;
  const Broadcast mask(dmask.shape, context_.sizes());
  std::int64_t n = 0;
  for_each_index(dmask.shape, [&](const Dims& index) {
    const Dims at = index_of(mask.own, n++);
    const KeyRange batches = mask.covered(0, at[0]), heads = mask.covered(1, at[1]);
    double sum = 0;
    for (std::int64_t b = batches.begin; b < batches.end; ++b) {
      for (std::int64_t h = heads.begin; h < heads.end; ++h)
        sum += sum_of(b, h, mask.covered(2, at[2]), at[3]);
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
    write_mask([&](std::int64_t b, std::int64_t h, KeyRange, std::int64_t key) {
      return shared_.column_sums[(b * sizes.num_q_heads + h) * sizes.kv_len + key];
    });
  }
}

std::int64_t ScoreSums::head_before(const BackwardSchedule& schedule, std::int64_t head,
                                    std::int64_t column) const noexcept {
  if (!sums(MaskSums::elements)) return -1;
  const Sizes& sizes = context_.sizes();
  const bool batches_share = dmask_.strides[0] == 0, heads_share = dmask_.strides[1] == 0;
  if (!batches_share && !heads_share) return -1;
  const std::int64_t step = heads_share ? 1 : sizes.num_kv_heads;
  const std::int64_t first =
      batches_share ? head % step : head / sizes.num_kv_heads * sizes.num_kv_heads;
  for (std::int64_t before = head - step; before >= first; before -= step) {
    if (column < schedule.head(before).columns.count) return before;
  }
  return -1;
}

}  // namespace attn::detail
