// What a block mask says of the keys of a row. It uses the public types only, so that programs
// outside the library can share it.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <memory>

namespace attn::detail {

/// Answers for each key of a row of a call that attention() accepts.
class BlockAnswers {
 public:
  /// `row` is a run of all keys.
  BlockAnswers(const AttentionOptions& options, const KeyRun& row)
      : block_mask_(options.block_mask ? &*options.block_mask : nullptr), row_(row) {
    if (block_mask_ == nullptr || row.count == 0) return;
    visible_ = std::make_unique<bool[]>(static_cast<std::size_t>(row.count));
    block_mask_->visible_keys(row, visible_.get());
  }

  bool hides(std::int64_t key) const { return visible_ != nullptr && !visible_[key]; }
  /// Whether mask_mod, or a boolean mask, decides about a key that is not hidden.
  bool asks_mask_mod(std::int64_t key) const {
    return visible_ == nullptr || !block_mask_->stands_for_mask_mod() || !is_full(key);
  }
  bool asks_mask(std::int64_t key) const {
    return visible_ == nullptr || !block_mask_->stands_for_mask() || !is_full(key);
  }

 private:
  bool is_full(std::int64_t key) const {
    const BlockSize& block = block_mask_->sizes().block;
    return block_mask_->kind(row_.batch, row_.q_head, row_.q_index / block.q, key / block.kv) ==
           BlockKind::full;
  }

  const BlockMask* block_mask_;
  KeyRun row_;
  std::unique_ptr<bool[]> visible_;
};

}  // namespace attn::detail
