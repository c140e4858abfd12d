// Where the queries and keys of each sequence lie: padded, ragged, in pages or in a ring. This is
// the only place of the tiled path that knows. The call has been validated.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "attention/problem.hpp"
#include "attention/visibility.hpp"
#include "iterate/row.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {

/// Consecutive keys and their values, with one stride each.
struct KeySpan {
  std::int64_t count;
  Row first_key, first_value;
  std::int64_t key_stride, value_stride;  // in elements
  // For i8 rows, one scale each, with strides in floats; else null and 0.
  const float *key_scales, *value_scales;
  std::int64_t key_scale_stride, value_scale_stride;

  Row key(std::int64_t index) const noexcept {
    return row(first_key, index * key_stride, key_scales, index * key_scale_stride);
  }
  Row value(std::int64_t index) const noexcept {
    return row(first_value, index * value_stride, value_scales, index * value_scale_stride);
  }

 private:
  static Row row(const Row& first, std::int64_t offset, const float* scales,
                 std::int64_t scale_offset) noexcept {
    Row moved = first;
    moved.data += offset * static_cast<std::int64_t>(size_of(first.dtype));
    if (scales != nullptr) moved.scale = scales[scale_offset];
    return moved;
  }
};

class KvLayout {
 public:
  KvLayout(const Problem& problem, const AttentionTensors& tensors) noexcept;

  std::int64_t q_len(std::int64_t batch) const noexcept { return lengths_.q_len(batch); }
  std::int64_t kv_len(std::int64_t batch) const noexcept { return lengths_.kv_len(batch); }
  KeyVisibility visibility(std::int64_t batch) const noexcept;

  Row query(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const noexcept {
    return row_of(q_, batch, q_head, lengths_.first_query(batch) + q_index);
  }
  Row output(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const noexcept {
    return row_of(out_, batch, q_head, lengths_.first_query(batch) + q_index);
  }
  /// Null if the call has no lse.
  float* lse(std::int64_t batch, std::int64_t q_head, std::int64_t q_index) const noexcept;
  /// Elements from one query of a head to the next.
  std::int64_t query_stride() const noexcept { return q_.strides[2]; }
  std::int64_t output_stride() const noexcept { return out_.strides[2]; }

  /// Keys first, first + 1, ... of a KV head, without the rows of k or v if that is absent, as far
  /// as they have one stride: at least one and at most `most` of them.
  KeySpan keys(std::int64_t batch, std::int64_t kv_head, std::int64_t first,
               std::int64_t most) const noexcept;

 private:
  /// Consecutive rows of k and v that hold consecutive keys.
  struct KeyRows {
    std::int64_t entry;
    std::int64_t row;
    std::int64_t count;
  };
  KeyRows rows_of_keys(std::int64_t batch, std::int64_t key) const noexcept;

  const Problem& problem_;
  const AttentionTensors& tensors_;
  SequenceLengths lengths_;
  TensorView page_table_, starts_;  // absent unless keys lie in pages, or in rings
  std::int64_t mask_kv_len_;
  // [entry, head, row, dim] in every layout; ragged tensors are one entry that all sequences share.
  TensorView q_, k_, v_, out_;
  Dims lse_strides_, k_scale_strides_, v_scale_strides_;  // [entry, head, row]
};

}  // namespace attn::detail
