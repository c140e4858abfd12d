// A call after validation: sizes as integers, settings with their defaults filled in, and the dense
// mask with one stride for each dim.
#pragma once

#include <attn/attention.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "attention/key_range.hpp"

namespace attn::detail {

struct Sizes {
  std::int64_t batch = 0;
  std::int64_t num_q_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t group_size = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t head_dim = 0;
  std::int64_t v_head_dim = 0;
};

struct Problem {
  Sizes sizes;
  float softmax_scale = 1;
  std::optional<float> softcap;
  bool causal = false;
  QueryPosition position;
  Window window;
  MaskKeys mask_keys = MaskKeys::first;
  Normalizer normalizer;
};

/// Where the queries of each sequence begin, and how many queries and keys it has.
class SequenceLengths {
 public:
  SequenceLengths() = default;
  /// Reads lengths and offsets of `tensors`, which are validated before they are asked for.
  SequenceLengths(const AttentionTensors& tensors, const Sizes& sizes) noexcept
      : q_len_(sizes.q_len),
        kv_len_(sizes.kv_len),
        q_offsets_(tensors.ragged.q_offsets),
        kv_offsets_(tensors.ragged.kv_offsets),
        kv_lens_(tensors.kv_lens) {}

  bool ragged_queries() const noexcept { return !q_offsets_.absent(); }
  bool ragged_keys() const noexcept { return !kv_offsets_.absent(); }
  /// Whether sequences may have different numbers of keys.
  bool differ_in_keys() const noexcept { return ragged_keys() || !kv_lens_.absent(); }
  /// The greatest number of keys.
  std::int64_t most_keys() const noexcept { return kv_len_; }

  /// The first query of a sequence among all tokens; 0 where queries are not ragged.
  std::int64_t first_query(std::int64_t batch) const noexcept;
  /// The first key of a sequence among all tokens; 0 where keys are not ragged.
  std::int64_t first_key(std::int64_t batch) const noexcept;
  std::int64_t q_len(std::int64_t batch) const noexcept;
  std::int64_t kv_len(std::int64_t batch) const noexcept;
  /// The sequence that a token of ragged queries belongs to.
  std::int64_t sequence_of(std::int64_t token) const noexcept;

 private:
  std::int64_t q_len_ = 0, kv_len_ = 0;
  TensorView q_offsets_{}, kv_offsets_{}, kv_lens_{};
};

/// Checks everything that shapes, types and options can tell, without reading data.
Problem validate(const AttentionTensors& tensors, const AttentionOptions& options,
                 const Execution& execution);
/// Checks what only the data can tell: pointers, strides, lengths, offsets, rings and pages.
void validate_data(const Problem& problem, const AttentionTensors& tensors);
/// Of these, the lengths and offsets alone.
void validate_lengths(const Problem& problem, const AttentionTensors& tensors);
/// The same as validate() for a call of which only the scores are wanted, without V and O.
Problem validate_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                        const Execution& execution);

/// The same as validate(), but `out` may be absent.
Problem validate_inputs(const AttentionTensors& tensors, const AttentionOptions& options,
                        const Execution& execution);

/// Throws unless a dense mask has a type and a shape that a call of these sizes takes. `tokens` is
/// the number of queries of all sequences where they are ragged.
void require_mask_fits(const TensorView& mask, const Sizes& sizes,
                       std::optional<std::int64_t> tokens = {});
/// Throws unless the block mask, if there is one, fits the call.
void check_block_mask(const AttentionTensors& tensors, const Sizes& sizes,
                      const AttentionOptions& options);

/// A dense mask. Its dims are [batch, q_head, q, column]; where queries are ragged, batch is 1 and
/// q counts the tokens of all sequences. Broadcast dims have an extent of 1 and a stride of 0.
struct DenseMask {
  const void* data = nullptr;  // null: no mask
  DType dtype = DType::boolean;
  std::array<std::int64_t, 3> extents{1, 1, 1};  // of the rows
  std::array<std::int64_t, 3> row_strides{};     // in rows
  std::array<std::int64_t, 4> strides{};         // in elements
  std::int64_t columns = 0;                      // all keys where the last dim broadcasts
  std::int64_t kv_len = 0;                       // keys from here on are hidden
  MaskKeys keys = MaskKeys::first;
  SequenceLengths lengths{};

  bool present() const noexcept { return data != nullptr; }
  bool boolean() const noexcept { return dtype == DType::boolean; }
  std::int64_t rows() const noexcept {
    return data == nullptr ? 0 : extents[0] * extents[1] * extents[2];
  }
  /// Whether the sequences of a batch have the same rows.
  bool batch_shares_rows() const noexcept {
    return lengths.ragged_queries() ? strides[2] == 0 : strides[0] == 0;
  }
  /// The key of a sequence that column 0 stands for. With MaskKeys::last it is below 0 where the
  /// sequence has fewer keys than the mask has columns.
  std::int64_t first_key(std::int64_t batch) const noexcept {
    return keys == MaskKeys::first ? 0 : lengths.kv_len(batch) - columns;
  }
  /// Those of some keys of a sequence that the mask has columns for. They are the last ones.
  KeyRange covered(std::int64_t batch, KeyRange some) const noexcept {
    return {std::clamp(first_key(batch), some.begin, std::max(some.begin, some.end)), some.end};
  }
  /// The element of a query and a covered key.
  const std::byte* element(std::int64_t batch, std::int64_t q_head, std::int64_t q_index,
                           std::int64_t key) const noexcept {
    const std::int64_t offset = batch * strides[0] + q_head * strides[1] +
                                (lengths.first_query(batch) + q_index) * strides[2] +
                                (key - first_key(batch)) * strides[3];
    return address(offset);
  }
  /// The number of a row among the rows of the mask.
  std::int64_t row_number(std::int64_t batch, std::int64_t q_head,
                          std::int64_t q_index) const noexcept {
    return batch * row_strides[0] + q_head * row_strides[1] +
           (lengths.first_query(batch) + q_index) * row_strides[2];
  }
  /// Column 0 of the row of that number.
  const std::byte* row(std::int64_t number) const noexcept {
    const std::int64_t of_entry = number / extents[2];
    return address(of_entry / extents[1] * strides[0] + of_entry % extents[1] * strides[1] +
                   number % extents[2] * strides[2]);
  }
  std::int64_t key_stride_in_bytes() const noexcept {
    return strides[3] * static_cast<std::int64_t>(size_of(dtype));
  }

 private:
  const std::byte* address(std::int64_t offset) const noexcept {
    return static_cast<const std::byte*>(data) + offset * static_cast<std::int64_t>(size_of(dtype));
  }
};

/// The mask of a validated call, or another tensor of its shape. One with data but no elements
/// counts as present.
DenseMask dense_mask(const TensorView& mask, const SequenceLengths& lengths, MaskKeys keys);
inline DenseMask dense_mask(const AttentionTensors& tensors, const Problem& problem) {
  return dense_mask(tensors.mask, {tensors, problem.sizes}, problem.mask_keys);
}
/// The rows of the dense mask that are worth a scan before the call: none where a block mask says
/// what is read of them.
std::int64_t scanned_rows(const AttentionTensors& tensors, const AttentionOptions& options);
/// Fills in the maxima of a ragged batch where they were not given and the offsets can be read.
AttentionTensors with_longest_sequences(AttentionTensors tensors);
/// The number of keys of a sequence: kv_lens[batch], or kv_len.
std::int64_t kv_length(const AttentionTensors& tensors, const Sizes& sizes, std::int64_t batch);
/// The position of query 0 of a sequence with that many queries and keys.
std::int64_t position_offset(const Problem& problem, std::int64_t q_len, std::int64_t kv_length);

}  // namespace attn::detail
