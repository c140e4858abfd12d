#include "attention/problem.hpp"

#include <algorithm>

#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

/// The longest sequence, or `given`. Offsets that do not increase are refused later.
std::optional<std::int64_t> longest_sequence(const char* name, const TensorView& offsets,
                                             std::optional<std::int64_t> given) {
  const bool readable = offsets.rank() == 1 && offsets.data != nullptr &&
                        (offsets.dtype == DType::i32 || offsets.dtype == DType::i64);
  if (given || !readable) return given;
  require_data(name, offsets);
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b + 1 < offsets.shape[0]; ++b) {
    const std::int64_t begin = integer_at(offsets, b), end = integer_at(offsets, b + 1);
    if (begin >= 0 && end > begin) longest = std::max(longest, end - begin);
  }
  return longest;
}

}  // namespace

AttentionTensors with_longest_sequences(AttentionTensors tensors) {
  Ragged& ragged = tensors.ragged;
  ragged.max_q_len = longest_sequence("q_offsets", ragged.q_offsets, ragged.max_q_len);
  ragged.max_kv_len = longest_sequence("kv_offsets", ragged.kv_offsets, ragged.max_kv_len);
  return tensors;
}

std::int64_t SequenceLengths::first_query(std::int64_t batch) const noexcept {
  return ragged_queries() ? integer_at(q_offsets_, batch) : 0;
}

std::int64_t SequenceLengths::first_key(std::int64_t batch) const noexcept {
  return ragged_keys() ? integer_at(kv_offsets_, batch) : 0;
}

std::int64_t SequenceLengths::q_len(std::int64_t batch) const noexcept {
  return ragged_queries() ? first_query(batch + 1) - first_query(batch) : q_len_;
}

std::int64_t SequenceLengths::kv_len(std::int64_t batch) const noexcept {
  if (ragged_keys()) return first_key(batch + 1) - first_key(batch);
  return kv_lens_.absent() ? kv_len_ : integer_at(kv_lens_, batch);
}

std::int64_t SequenceLengths::sequence_of(std::int64_t token) const noexcept {
  // first_query(sequence) <= token < first_query(behind)
  std::int64_t sequence = 0, behind = q_offsets_.shape[0] - 1;
  while (behind - sequence > 1) {
    const std::int64_t middle = sequence + (behind - sequence) / 2;
    (first_query(middle) <= token ? sequence : behind) = middle;
  }
  return sequence;
}

DenseMask dense_mask(const TensorView& tensor, const SequenceLengths& lengths, MaskKeys keys) {
  DenseMask mask;
  mask.columns = mask.kv_len = lengths.most_keys();
  mask.keys = keys;
  mask.lengths = lengths;
  if (tensor.absent()) return mask;
  mask.data = tensor.data;
  mask.dtype = tensor.dtype;
  const int rank = tensor.rank();
  std::int64_t rows = 1;
  for (int dim = rank - 2; dim >= 0; --dim) {
    const auto axis = static_cast<std::size_t>(4 - rank + dim);
    const std::int64_t extent = tensor.shape[dim];
    mask.extents[axis] = extent;
    mask.strides[axis] = extent == 1 ? 0 : tensor.strides[dim];
    mask.row_strides[axis] = extent == 1 ? 0 : rows;
    rows *= extent;
  }
  const std::int64_t columns = tensor.shape[rank - 1];
  if (keys == MaskKeys::last) {
    mask.strides[3] = tensor.strides[rank - 1];
    mask.columns = columns;
  } else if (columns != 1) {
    mask.strides[3] = tensor.strides[rank - 1];
    mask.columns = mask.kv_len = std::min(columns, lengths.most_keys());
  }
  return mask;
}

std::int64_t scanned_rows(const AttentionTensors& tensors, const AttentionOptions& options) {
  if (options.block_mask || tensors.mask.absent()) return 0;
  const Dims& shape = tensors.mask.shape;
  return Dims(shape.begin(), shape.rank() - 1).product();
}

std::int64_t kv_length(const AttentionTensors& tensors, const Sizes& sizes, std::int64_t batch) {
  return tensors.kv_lens.absent() ? sizes.kv_len : integer_at(tensors.kv_lens, batch);
}

std::int64_t position_offset(const Problem& problem, std::int64_t q_len, std::int64_t kv_length) {
  return problem.position.offset.value_or(kv_length - q_len);
}

}  // namespace attn::detail
