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

DenseMask dense_mask(const AttentionTensors& tensors, const Sizes& sizes) {
  DenseMask mask;
  mask.kv_len = sizes.kv_len;
  if (tensors.mask.absent()) return mask;
  mask.data = tensors.mask.data;
  mask.dtype = tensors.mask.dtype;
  const int rank = tensors.mask.rank();
  mask.rows = 1;
  for (int dim = rank - 1; dim >= 0; --dim) {
    const auto axis = static_cast<std::size_t>(4 - rank + dim);
    const std::int64_t extent = tensors.mask.shape[dim];
    mask.strides[axis] = extent == 1 ? 0 : tensors.mask.strides[dim];
    if (dim == rank - 1) continue;
    mask.row_strides[axis] = extent == 1 ? 0 : mask.rows;
    mask.rows *= extent;
  }
  const std::int64_t last = tensors.mask.shape[rank - 1];
  if (last != 1) mask.kv_len = std::min(last, sizes.kv_len);
  return mask;
}

std::int64_t scanned_rows(const AttentionTensors& tensors, const Sizes& sizes,
                          const AttentionOptions& options) {
  return options.block_mask ? 0 : dense_mask(tensors, sizes).rows;
}

std::int64_t kv_length(const AttentionTensors& tensors, const Sizes& sizes, std::int64_t batch) {
  return tensors.kv_lens.absent() ? sizes.kv_len : integer_at(tensors.kv_lens, batch);
}

std::int64_t position_offset(const Problem& problem, std::int64_t q_len, std::int64_t kv_length) {
  return problem.position.offset.value_or(kv_length - q_len);
}

}  // namespace attn::detail
