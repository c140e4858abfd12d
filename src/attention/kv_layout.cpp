#include "attention/kv_layout.hpp"
#include "tensor/indexing.hpp"

#include <algorithm>
#include <limits>

namespace attn::detail {
namespace {

/// A ragged [tokens, heads, dim] as one entry [1, heads, tokens, dim] that all sequences share.
TensorView by_entry(const TensorView& tensor, bool ragged) {
  if (!ragged) return tensor;
  TensorView view = tensor;
  view.shape = {1, tensor.shape[1], tensor.shape[0], tensor.shape[2]};
  view.strides = {0, tensor.strides[1], tensor.strides[0], tensor.strides[2]};
  return view;
}

Dims strides_by_entry(const TensorView& tensor, bool ragged) {
  if (tensor.absent()) return {0, 0, 0};
  return ragged ? Dims{0, tensor.strides[1], tensor.strides[0]} : tensor.strides;
}

/// The row of a tensor that may be absent.
Row row_at(const TensorView& tensor, std::int64_t entry, std::int64_t head, std::int64_t row) {
  return tensor.absent() ? Row{} : row_of(tensor, entry, head, row);
}

const float* scale_at(const TensorView& scales, const Dims& strides, std::int64_t entry,
                      std::int64_t head, std::int64_t row) {
  if (scales.absent()) return nullptr;
  return static_cast<const float*>(scales.data) + entry * strides[0] + head * strides[1] +
         row * strides[2];
}

}  // namespace

KvLayout::KvLayout(const Problem& problem, const AttentionTensors& tensors) noexcept
    : problem_(problem),
      tensors_(tensors),
      lengths_(tensors, problem.sizes),
      page_table_(tensors.storage.page_table()),
      starts_(tensors.storage.starts()),
      mask_kv_len_(dense_mask(tensors, problem).kv_len),
      q_(by_entry(tensors.q, lengths_.ragged_queries())),
      k_(by_entry(tensors.k, lengths_.ragged_keys())),
      v_(by_entry(tensors.v, lengths_.ragged_keys())),
      out_(by_entry(tensors.out, lengths_.ragged_queries())),
      lse_strides_(strides_by_entry(tensors.lse, lengths_.ragged_queries())),
      k_scale_strides_(strides_by_entry(tensors.storage.k_scales, lengths_.ragged_keys())),
      v_scale_strides_(strides_by_entry(tensors.storage.v_scales, lengths_.ragged_keys())) {}

KeyVisibility KvLayout::visibility(std::int64_t batch) const noexcept {
  return KeyVisibility(problem_, q_len(batch), kv_len(batch), mask_kv_len_);
}

float* KvLayout::lse(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const noexcept {
  if (tensors_.lse.absent()) return nullptr;
  const std::int64_t offset = batch * lse_strides_[0] + q_head * lse_strides_[1] +
                              (lengths_.first_query(batch) + q_index) * lse_strides_[2];
  return static_cast<float*>(tensors_.lse.data) + offset;
}

KvLayout::KeyRows KvLayout::rows_of_keys(std::int64_t batch, std::int64_t key) const noexcept {
  constexpr std::int64_t no_end = std::numeric_limits<std::int64_t>::max();
  if (!page_table_.absent()) {
    const std::int64_t page_size = k_.shape[2];
    const Dims& strides = page_table_.strides;
    const auto* pages = static_cast<const std::int32_t*>(page_table_.data) + batch * strides[0];
    return {pages[key / page_size * strides[1]], key % page_size, page_size - key % page_size};
  }
  if (!starts_.absent()) {
    const std::int64_t capacity = k_.shape[2];
    const std::int64_t row = (integer_at(starts_, batch) + key) % capacity;
    return {batch, row, capacity - row};
  }
  if (lengths_.ragged_keys()) return {0, lengths_.first_key(batch) + key, no_end};
  return {batch, key, no_end};
}

KeySpan KvLayout::keys(std::int64_t batch, std::int64_t kv_head, std::int64_t first,
                       std::int64_t most) const noexcept {
  const auto [entry, row, count] = rows_of_keys(batch, first);
  return {
      .count = std::min(count, most),
      .first_key = row_at(k_, entry, kv_head, row),
      .first_value = row_at(v_, entry, kv_head, row),
      .key_stride = k_.strides[2],
      .value_stride = v_.strides[2],
      .key_scales = scale_at(tensors_.storage.k_scales, k_scale_strides_, entry, kv_head, row),
      .value_scales = scale_at(tensors_.storage.v_scales, v_scale_strides_, entry, kv_head, row),
      .key_scale_stride = k_scale_strides_[2],
      .value_scale_stride = v_scale_strides_[2]};
}

}  // namespace attn::detail
