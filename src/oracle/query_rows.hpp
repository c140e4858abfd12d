// The rows of a dense call, for the reference and the unfused baseline, which compute one row of Q
// with all of its keys at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/problem.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

inline std::int64_t num_rows(const Sizes& sizes) {
  return sizes.batch * sizes.num_q_heads * sizes.q_len;
}

inline int num_threads(const Execution& execution) {
  return execution.num_threads.value_or(default_num_threads());
}

/// Row `index` of [batch, num_q_heads, q_len], with a run of all keys.
inline KeyRun all_keys_of_row(const Problem& problem, const AttentionTensors& tensors,
                              std::int64_t index) {
  const Sizes& sizes = problem.sizes;
  KeyRun row{};
  row.q_index = index % sizes.q_len;
  row.q_head = index / sizes.q_len % sizes.num_q_heads;
  row.batch = index / sizes.q_len / sizes.num_q_heads;
  row.kv_head = row.q_head / sizes.group_size;
  row.q_position =
      row.q_index + position_offset(problem, sizes.q_len, kv_length(tensors, sizes, row.batch));
  row.count = sizes.kv_len;
  return row;
}

/// An element of an optional f32 [num_q_heads] tensor, such as alibi_slopes or sinks.
inline float per_head(const TensorView& values, std::int64_t q_head, float if_absent) {
  return values.absent() ? if_absent
                         : static_cast<const float*>(values.data)[q_head * values.strides[0]];
}

/// The elements of a [batch, num_q_heads, q_len, n] tensor at a row, as a tensor of rank 1.
template <class Void>
BasicTensorView<Void> row_view(const BasicTensorView<Void>& tensor, const KeyRun& row) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
  const std::int64_t offset = row.batch * tensor.strides[0] + row.q_head * tensor.strides[1] +
                              row.q_index * tensor.strides[2];
  Byte* data =
      static_cast<Byte*>(tensor.data) + offset * static_cast<std::int64_t>(size_of(tensor.dtype));
  return {data, tensor.dtype, Dims{tensor.shape[3]}, Dims{tensor.strides[3]}};
}

inline void write_lse(const MutableTensorView& lse, const KeyRun& row, double value) {
  if (lse.absent()) return;
  const std::int64_t at =
      row.batch * lse.strides[0] + row.q_head * lse.strides[1] + row.q_index * lse.strides[2];
  static_cast<float*>(lse.data)[at] = static_cast<float>(value);
}

}  // namespace attn::detail
