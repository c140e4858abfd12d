#include "attention/pack.hpp"

#include <algorithm>

#include "attention/rows.hpp"

namespace attn {

KeyLayout key_layout(const Sizes& sizes, const Blocking& blocking, std::int64_t panel_width, bool one_matrix) noexcept {
  return one_matrix ? KeyLayout{blocking.kv_block, panel_width} : KeyLayout{panel_width, sizes.head_dim * panel_width};
}

float* Packer::keys(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  return head.keys + block * sizes_.head_dim * blocking_.kv_block + first_key / kernels_.panel_width * layout_.panel_stride +
         first_key % kernels_.panel_width;
}

float* Packer::values(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  return head.values + block * blocking_.value_panels * value_panel_stride() + first_key * kernels_.panel_width;
}

Packer::Panel Packer::rows_as_floats(const TensorView& tensor, std::int64_t batch, std::int64_t kv_head, std::int64_t first,
                                     std::int64_t count, float* staging) const noexcept {
  const Row row = row_of(tensor, batch, kv_head, first);
  if (row.dense_f32()) return {row.floats(), tensor.strides[2]};
  const std::int64_t width = tensor.shape[3];
  for (std::int64_t r = 0; r < count; ++r) {
    read_row(row_of(tensor, batch, kv_head, first + r), width, kernels_, staging + r * width);
  }
  return {staging, width};
}

void Packer::pack(const Tensors& tensors, std::int64_t batch, std::int64_t kv_head, std::int64_t block, KeyRange wanted,
                  const PackedHead& to, float* staging) const noexcept {
  const std::int64_t block_begin = block * blocking_.kv_block;
  const KeyRange keys = intersection(wanted, {block_begin, block_begin + blocking_.kv_block});
  const std::int64_t panel_width = kernels_.panel_width;
  bool finite = true;
  for (std::int64_t first = (keys.begin - block_begin) / panel_width * panel_width; first < keys.end - block_begin; first += panel_width) {
    const std::int64_t count = std::min(panel_width, keys.end - block_begin - first);
    const Panel k = rows_as_floats(tensors.k, batch, kv_head, block_begin + first, count, staging);
    kernels_.pack_transposed(k.rows, k.stride, count, sizes_.head_dim, this->keys(to, block, first),
                             layout_.row_stride);
    const Panel v = rows_as_floats(tensors.v, batch, kv_head, block_begin + first, count, staging);
    finite &= kernels_.pack_finite(v.rows, v.stride, count, sizes_.v_head_dim, values(to, block, first),
                                   value_panel_stride());
  }
  to.finite[block] = finite;
}

}  // namespace attn
