// Copies a block of K and V into the panels that the micro-kernel reads.
#pragma once

#include "attention/call_context.hpp"
#include "attention/visibility.hpp"
#include "attention/workspace.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// Any strides become dense panels, and any type f32; bf16 stays bf16, and i8 becomes bf16 without
/// its scale, in pairs, where it is multiplied as such. A block of V that already lies as panels
/// would stays where it is.
class Packer {
 public:
  explicit Packer(const CallContext& context) noexcept;

  /// Packs those keys of a piece of a block of one KV head that lie in `wanted`, from the beginning
  /// of a panel on; `index` counts the pieces of all blocks. `staging` holds panel_width rows of
  /// the wider head dim.
  void pack(HeadIndex head, std::int64_t index, KeyRange wanted, const PackedHead& to,
            float* staging) const noexcept;

  /// Keys of a KV head.
  struct Keys {
    std::int64_t batch, kv_head, first, count;
  };
  struct Operands {
    const void* rows;
    std::int64_t stride;  // in elements
  };
  /// Up to panel_width keys as operands of a multiplication, in whole pairs: in place if they lie
  /// so, else read into `staging`.
  Operands key_operands(const Keys& keys, float* staging) const noexcept;
  /// Packs values as those of block `block`, whose first one is number `at` of the block, where a
  /// pair must begin. Returns what pack_finite() returns.
  bool pack_values(const Keys& keys, std::int64_t block, std::int64_t at, const PackedHead& to,
                   float* staging) const noexcept;
  /// Copies the scales of keys and values to the same place if the plan is scaled. Returns whether
  /// those of values are finite, and not tiny.
  bool pack_scales(const Keys& keys, std::int64_t block, std::int64_t at,
                   const PackedHead& to) const noexcept;

  /// The keys of a packed block from key `first_key` on, where a panel must begin.
  kernels::Panels keys(const PackedHead& head, std::int64_t block,
                       std::int64_t first_key) const noexcept;
  /// The values of a packed block from key `first_key` on, where a pair must begin.
  kernels::Panels values(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept;

 private:
  float* key_panel(const PackedHead& head, std::int64_t block,
                   std::int64_t first_key) const noexcept;
  float* value_row(const PackedHead& head, std::int64_t block,
                   std::int64_t first_key) const noexcept;

  Operands value_operands(const Keys& keys, float* staging) const noexcept;
  template <class RowOf>
  Operands gather(const Keys& keys, std::int64_t width, float* staging,
                  RowOf row_of) const noexcept;
  const float* values_in_place(const Keys& keys) const noexcept;
  bool fits_onednn(const Keys& keys) const noexcept;
  void clear_values(const PackedHead& to, std::int64_t block, KeyRange keys) const noexcept;

  const CallContext& context_;
  kernels::PanelLayout in_place_layout_;  // of values that are read in place
};

}  // namespace attn::detail
