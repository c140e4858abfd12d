// The rows of a dense call, for the reference and the unfused baseline, which compute one row of Q
// with all of its keys at a time.
#pragma once

#include <cstdint>

#include "attention/problem.hpp"
#include "oracle/row_access.hpp"  // IWYU pragma: export
#include "threads/parallel.hpp"

namespace attn::detail {

inline std::int64_t num_rows(const Sizes& sizes) {
  return sizes.batch * sizes.num_q_heads * sizes.q_len;
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

}  // namespace attn::detail
