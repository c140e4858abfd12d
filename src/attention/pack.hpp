// Copies a block of K and V into the panels that the micro-kernel reads.
#pragma once

#include "attention/kv_layout.hpp"
#include "attention/plan.hpp"
#include "attention/visibility.hpp"
#include "attention/workspace.hpp"
#include "iterate/row.hpp"
#include "kernels/kernels.hpp"

namespace attn::detail {

/// Of a block's keys: panels for the micro-kernel; one matrix [head_dim][kv_block] where a matmul
/// primitive reads whole blocks.
kernels::PanelLayout key_layout(const Blocking& blocking, std::int64_t panel_width,
                                bool one_matrix) noexcept;
/// Of a block's values.
kernels::PanelLayout value_layout(const Blocking& blocking) noexcept;

struct PreparedCall;

class Packer {
 public:
  Packer(const PreparedCall& prepared, const KvLayout& layout) noexcept;

  /// Packs those keys of a block of one KV head that lie in `wanted`, from a panel's beginning on.
  /// Values that lie as a panel would stay where they are. `staging` holds panel_width rows of the
  /// wider head dim.
  void pack(std::int64_t batch, std::int64_t kv_head, std::int64_t block, KeyRange wanted,
            const PackedHead& to, float* staging) const noexcept;

  /// A block of a packed head from key `first_key` on; for keys, a panel begins there, for values,
  /// a word.
  kernels::Panels keys(const PackedHead& head, std::int64_t block,
                       std::int64_t first_key) const noexcept;
  kernels::Panels values(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept;

 private:
  float* key_panel(const PackedHead& head, std::int64_t block,
                   std::int64_t first_key) const noexcept;
  float* value_row(const PackedHead& head, std::int64_t block,
                   std::int64_t first_key) const noexcept;

  /// Up to panel_width keys of a KV head.
  struct Keys {
    std::int64_t batch, kv_head, first, count;
  };
  struct Operands {
    const void* rows;
    std::int64_t stride;  // in elements
  };
  // In the operands' type, where they lie if they lie so, else read into `staging`. Keys come in
  // whole words.
  Operands keys_to_pack(const Keys& keys, float* staging) const noexcept;
  Operands values_to_pack(const Keys& keys, float* staging) const noexcept;
  template <class RowOf>
  Operands gather(const Keys& keys, std::int64_t width, float* staging,
                  RowOf row_of) const noexcept;
  const float* values_in_place(const Keys& keys) const noexcept;

  const Sizes& sizes_;
  const Blocking& blocking_;
  const kernels::Kernels& kernels_;
  const kernels::Arithmetic& arithmetic_;
  const KvLayout& layout_;
  kernels::PanelLayout key_layout_;
  kernels::PanelLayout value_layout_;
  kernels::PanelLayout in_place_layout_;
};

}  // namespace attn::detail
