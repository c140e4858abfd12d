// Access to single rows of a dense call's tensors, and the range of keys that a row may see. It
// uses the public types only, so that programs outside the library can share it.
#pragma once

#include <attn/mask.hpp>
#include <attn/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "tensor/indexing.hpp"

namespace attn::detail {

/// An element of an optional f32 [num_q_heads] tensor, such as alibi_slopes or sinks.
inline float per_head(const TensorView& values, std::int64_t q_head, float if_absent) {
  return values.absent() ? if_absent
                         : static_cast<const float*>(values.data)[q_head * values.strides[0]];
}

/// Shortens a run of all keys of a row to those that causal, the window and the number of keys
/// leave.
inline KeyRun visible_range(KeyRun row, bool causal, const Window& window, std::int64_t num_keys) {
  std::int64_t begin = 0, end = num_keys;
  if (causal) end = std::min(end, row.q_position + 1);
  if (window.right) end = std::min(end, row.q_position + *window.right + 1);
  if (window.left) begin = std::max(begin, row.q_position - *window.left);
  row.key_begin = std::min(begin, row.count);
  row.count = std::max<std::int64_t>(0, end - row.key_begin);
  return row;
}

/// The elements of a [batch, num_q_heads, q_len, n] tensor at a row, as a tensor of rank 1.
template <class Void>
BasicTensorView<Void> row_view(const BasicTensorView<Void>& tensor, const KeyRun& row) {
  return {address_of(tensor, row.batch, row.q_head, row.q_index), tensor.dtype,
          Dims{tensor.shape[3]}, Dims{tensor.strides[3]}};
}

inline void write_lse(const MutableTensorView& lse, const KeyRun& row, double value) {
  if (lse.absent()) return;
  const std::int64_t offset = offset_of(lse.strides, row.batch, row.q_head, row.q_index);
  static_cast<float*>(lse.data)[offset] = static_cast<float>(value);
}

}  // namespace attn::detail
