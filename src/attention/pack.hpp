// Copies a block of K and V into the panels that the micro-kernel reads.
#pragma once

#include <attn/attention.hpp>

#include "attention/key_range.hpp"
#include "attention/plan.hpp"
#include "attention/workspace.hpp"
#include "kernels/kernels.hpp"

namespace attn {

/// How a block's keys lie in PackedHead::keys.
struct KeyLayout {
  std::int64_t row_stride;    // from one dim to the next
  std::int64_t panel_stride;  // from one panel of keys to the next
};
/// Panels for the micro-kernel; one matrix [head_dim][kv_block] where a matmul primitive reads whole blocks.
KeyLayout key_layout(const Blocking& blocking, std::int64_t panel_width, bool one_matrix) noexcept;

class Packer {
 public:
  Packer(const Sizes& sizes, const Blocking& blocking, const kernels::Kernels& kernels, const kernels::Arithmetic& arithmetic,
         const KeyLayout& layout) noexcept
      : sizes_(sizes), blocking_(blocking), kernels_(kernels), arithmetic_(arithmetic), layout_(layout) {}

  /// Packs those keys of a block of one KV head that lie in `wanted`, from a panel's beginning on. `staging` holds
  /// panel_width rows of the wider head dim.
  void pack(const Tensors& tensors, std::int64_t batch, std::int64_t kv_head, std::int64_t block, KeyRange wanted,
            const PackedHead& to, float* staging) const noexcept;

  /// Where key `first_key` of a block lies; for keys, a panel begins there, for values, a word.
  float* keys(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept;
  float* values(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept;
  std::int64_t value_panel_stride() const noexcept { return blocking_.value_words() * kernels_.panel_width; }
  const KeyLayout& layout() const noexcept { return layout_; }

 private:
  struct Operands {
    const void* rows;
    std::int64_t stride;  // in elements
  };
  /// `count` rows from `first` on in the operands' type, in place where they are; as whole words if asked for.
  Operands operands(bool whole_words, const TensorView& tensor, std::int64_t batch, std::int64_t kv_head, std::int64_t first, std::int64_t count,
                    float* staging) const noexcept;

  const Sizes& sizes_;
  const Blocking& blocking_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  KeyLayout layout_;
};

}  // namespace attn
