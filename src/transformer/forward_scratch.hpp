// The scratch memory of forwards, and the objects that blocks share with it: compiled products,
// RoPE tables.
#pragma once

#include <attn/transformer.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "onednn/packed_matmul.hpp"

namespace attn {
namespace detail {

/// Memory for one tensor at a time. It grows to the size of the largest one.
class Buffer {
 public:
  /// A dense tensor in this memory, with unspecified contents. Views that were made before are
  /// invalid if the memory has to grow.
  MutableTensorView view(DType dtype, const Dims& shape);
  std::size_t size_in_bytes() const noexcept { return memory_.size_in_bytes(); }

 private:
  Tensor memory_;
};

}  // namespace detail

struct ForwardScratch::Memory {
  using Buffer = detail::Buffer;

  Buffer input;       // x of a block in the type of the products, [tokens, hidden]
  Buffer qkv;         // [tokens, (num_q_heads + 2 num_kv_heads) * head_dim]
  Buffer attended;    // output of attention, [tokens, num_q_heads * head_dim]
  Buffer projected;   // y of a block, where y itself cannot be written, [tokens, hidden]
  Buffer normed;      // [tokens, hidden]
  Buffer branch;      // what attention or an MLP adds, before the norm behind it, [tokens, hidden]
  Buffer mlp_hidden;  // gate and up, or up alone, [tokens, mlp_width or twice that]
  Buffer mlp_active;  // after the activation, [tokens, mlp_width]
  Buffer residual;    // the residual stream of a decoder, [tokens, hidden]
  Buffer last;        // hidden states that logits are computed from, [batch or tokens, hidden]
  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> appended;  // tokens of each sequence that a cache has got
  std::vector<std::int64_t> offsets;   // of ragged tokens, [batch + 1]
  std::vector<std::int64_t> chunk_offsets;
  Workspace workspace{0};
  std::map<onednn::PackedMatmulShape, onednn::PackedMatmul> matmuls;

  /// What determines the contents of RoPE tables.
  struct RopeKey {
    RopeSettings settings;
    std::int64_t head_dim;
    std::int64_t positions;
    friend bool operator==(const RopeKey&, const RopeKey&) = default;
  };
  std::vector<std::pair<RopeKey, std::shared_ptr<const RopeTables>>> ropes;

  /// Rows of tables that depend on the lengths of sequences, made for some tokens.
  struct RotatedTokens {
    std::optional<RopeKey> key;  // empty: none were made
    std::vector<std::int64_t> positions, counts, lengths;
    Buffer cos, sin;  // [batch, seq, pairs]
    std::vector<double> frequencies;
  };
  RotatedTokens rotated;

  /// A workspace of at least this size.
  Workspace& workspace_of(std::size_t size_in_bytes);
  /// Blocks with the same rotation share their tables, because those of a long context are large.
  std::shared_ptr<const RopeTables> rope_tables(const RopeKey& key);
  /// The product of this shape, which is compiled at its first use.
  onednn::PackedMatmul& matmul(const onednn::PackedMatmulShape& shape);
};

namespace detail {

/// Adds the time between its construction and destruction to one of the times. Does nothing if
/// `times` is null.
class Timed {
 public:
  Timed(ForwardTimes* times, ForwardTimes::Duration ForwardTimes::*part)
      : total_(times == nullptr ? nullptr : &(times->*part)) {
    if (total_ != nullptr) begin_ = std::chrono::steady_clock::now();
  }
  ~Timed() {
    if (total_ != nullptr) *total_ += std::chrono::steady_clock::now() - begin_;
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  ForwardTimes::Duration* total_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace detail
}  // namespace attn
