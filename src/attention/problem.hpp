// A call after validation: sizes as integers, settings with their defaults filled in, and the dense
// mask with one stride for each dim.
#pragma once

#include <attn/attention.hpp>

#include <array>
#include <cstdint>
#include <optional>

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
  Normalizer normalizer;
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

/// Throws unless a dense mask has a type and a shape that a call of these sizes takes.
void require_mask_fits(const TensorView& mask, const Sizes& sizes);
/// Throws unless the block mask, if there is one, fits the call.
void check_block_mask(const AttentionTensors& tensors, const Sizes& sizes,
                      const AttentionOptions& options);

/// A dense mask with broadcast dims as stride 0.
struct DenseMask {
  const void* data = nullptr;  // null: no mask
  DType dtype = DType::boolean;
  std::array<std::int64_t, 4> strides{};  // batch, q_head, q, key
  std::int64_t kv_len = 0;                // keys from here on are hidden
  // The rows of the mask, [batch, q_head, q] with broadcast dims as stride 0.
  std::int64_t rows = 0;
  std::array<std::int64_t, 3> row_strides{};

  bool present() const noexcept { return data != nullptr; }
  bool boolean() const noexcept { return dtype == DType::boolean; }
  /// The mask of a row, from its element of key 0 on.
  const std::byte* row(std::int64_t batch, std::int64_t q_head,
                       std::int64_t q_index) const noexcept {
    const std::int64_t offset = batch * strides[0] + q_head * strides[1] + q_index * strides[2];
    return static_cast<const std::byte*>(data) + offset * static_cast<std::int64_t>(size_of(dtype));
  }
  /// The number of a row among the rows of the mask.
  std::int64_t row_number(std::int64_t batch, std::int64_t q_head,
                          std::int64_t q_index) const noexcept {
    return batch * row_strides[0] + q_head * row_strides[1] + q_index * row_strides[2];
  }
  std::int64_t key_stride_in_bytes() const noexcept {
    return strides[3] * static_cast<std::int64_t>(size_of(dtype));
  }
};

/// The mask of a validated call. A mask with data but no elements counts as present.
DenseMask dense_mask(const AttentionTensors& tensors, const Sizes& sizes);
/// The rows of the dense mask that are worth a scan before the call: none where a block mask says
/// what is read of them.
std::int64_t scanned_rows(const AttentionTensors& tensors, const Sizes& sizes,
                          const AttentionOptions& options);
/// Fills in the maxima of a ragged batch where they were not given and the offsets can be read.
AttentionTensors with_longest_sequences(AttentionTensors tensors);
/// The number of keys of a sequence: kv_lens[batch], or kv_len.
std::int64_t kv_length(const AttentionTensors& tensors, const Sizes& sizes, std::int64_t batch);
/// The position of query 0 of a sequence with that many queries and keys.
std::int64_t position_offset(const Problem& problem, std::int64_t q_len, std::int64_t kv_length);

}  // namespace attn::detail
