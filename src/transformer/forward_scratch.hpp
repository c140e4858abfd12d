// Scratch memory of forwards.
#pragma once

#include <attn/transformer.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "onednn/packed_matmul.hpp"

namespace attn {
namespace detail {

/// Memory for one tensor at a time, which grows to the largest of them.
class Buffer {
 public:
  /// Contents are unspecified. Views made before are void if it has to grow.
  MutableTensorView view(DType dtype, const Dims& shape);
  std::size_t size_in_bytes() const noexcept { return memory_.size_in_bytes(); }

 private:
  Tensor memory_;
};

}  // namespace detail

struct ForwardScratch::Memory {
  using Buffer = detail::Buffer;

  Buffer input;       // x of a block, as operands
  Buffer qkv;         // [tokens, q heads and k heads and v heads]
  Buffer attended;    // [tokens, q heads], as operands
  Buffer projected;   // y of a block, where it cannot be written in place
  Buffer normed;      // [tokens, hidden], as operands
  Buffer mlp_hidden;  // [tokens, mlp_width], twice with a gate
  Buffer mlp_active;  // [tokens, mlp_width], as operands
  Buffer residual;    // [tokens, hidden]
  Buffer last;        // [batch, hidden], the tokens that logits are made of
  std::vector<std::int64_t> positions;
  Workspace workspace{0};
  std::map<onednn::PackedMatmulShape, onednn::PackedMatmul> matmuls;

  /// What rope's tables are made of.
  struct RopeKey {
    RopeSettings settings;
    std::int64_t head_dim;
    std::int64_t positions;
    friend bool operator==(const RopeKey&, const RopeKey&) = default;
  };
  std::vector<std::pair<RopeKey, std::shared_ptr<const RopeTables>>> ropes;

  Workspace& workspace_of(std::size_t size_in_bytes);
  /// The same tables for all blocks with the same rotation: those of a long context are large.
  std::shared_ptr<const RopeTables> rope_tables(const RopeKey& key);
  onednn::PackedMatmul& matmul(const onednn::PackedMatmulShape& shape);
};

namespace detail {

/// Adds the time of its life to a part of the times, if there are any.
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
