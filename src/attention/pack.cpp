#include "attention/pack.hpp"

#include <algorithm>

#include "attention/prefill.hpp"
#include "attention/rows.hpp"

namespace attn {

kernels::PanelLayout key_layout(const Blocking& blocking, std::int64_t panel_width, bool one_matrix) noexcept {
  return one_matrix ? kernels::PanelLayout{blocking.kv_block, panel_width, panel_width}
                    : kernels::PanelLayout{panel_width, blocking.key_words * panel_width, panel_width};
}

kernels::PanelLayout value_layout(const Blocking& blocking) noexcept {
  return {blocking.value_panel_width, blocking.value_words() * blocking.value_panel_width, blocking.value_panel_width};
}

Packer::Packer(const PreparedCall& prepared, const Tensors& tensors) noexcept
    : sizes_(prepared.problem.sizes),
      blocking_(prepared.blocking),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      tensors_(tensors),
      key_layout_(prepared.key_layout),
      value_layout_(value_layout(blocking_)),
      in_place_layout_{tensors.v.strides[2], blocking_.value_panel_width, blocking_.value_panel_width} {}

float* Packer::key_panel(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  return head.keys + block * blocking_.key_words * blocking_.kv_block + first_key / kernels_.panel_width * key_layout_.panel_stride;
}

float* Packer::value_row(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  float* const first = head.values + block * blocking_.value_panels * value_layout_.panel_stride;
  return first + first_key / blocking_.per_word * value_layout_.row_stride;
}

kernels::Panels Packer::keys(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  return {key_panel(head, block, first_key), key_layout_};
}

kernels::Panels Packer::values(const PackedHead& head, std::int64_t block, std::int64_t first_key) const noexcept {
  const float* const in_place = head.values_in_place[block];
  if (in_place != nullptr) return {in_place + first_key * in_place_layout_.row_stride, in_place_layout_};
  return {value_row(head, block, first_key), value_layout_};
}

Packer::Operands Packer::operands(bool whole_words, const TensorView& tensor, std::int64_t batch, std::int64_t kv_head,
                                  std::int64_t first, std::int64_t count, float* staging) const noexcept {
  const Row row = row_of(tensor, batch, kv_head, first);
  const std::int64_t width = tensor.shape[3];
  const std::int64_t per_word = blocking_.per_word;
  const bool in_place = whole_words ? lie_in_words(row, width, per_word, tensor.strides[2])
                                    : row.stride == 1 && (per_word == 2 || row.dtype == DType::f32);
  if (in_place) return {row.data, tensor.strides[2]};
  const std::int64_t words = (width + per_word - 1) / per_word;
  for (std::int64_t r = 0; r < count; ++r) {
    read_words(row_of(tensor, batch, kv_head, first + r), width, per_word, kernels_, staging + r * words);
  }
  return {staging, words * per_word};
}

/// The rows where they lie, if the micro-kernel can read them there: whole vectors of finite floats, row upon row.
const float* Packer::values_in_place(const Row& first, std::int64_t count) const noexcept {
  const bool as_panels = blocking_.per_word == 1 && first.dense_f32() && sizes_.v_head_dim == blocking_.value_width &&
                         tensors_.v.strides[2] == sizes_.v_head_dim &&
                         reinterpret_cast<std::uintptr_t>(first.data) % Arena::alignment == 0;
  return as_panels && kernels_.all_finite(first.floats(), count * sizes_.v_head_dim) ? first.floats() : nullptr;
}

void Packer::pack(std::int64_t batch, std::int64_t kv_head, std::int64_t block, KeyRange wanted, const PackedHead& to,
                  float* staging) const noexcept {
  const std::int64_t block_begin = block * blocking_.kv_block;
  const std::int64_t panel_width = kernels_.panel_width;
  const KeyRange seen = intersection(wanted, {block_begin, block_begin + blocking_.kv_block});
  const KeyRange range{(seen.begin - block_begin) / panel_width * panel_width, seen.end - block_begin};
  if (range.empty()) return;
  const float* const in_place = values_in_place(row_of(tensors_.v, batch, kv_head, block_begin + range.begin), range.size());
  to.values_in_place[block] = in_place == nullptr ? nullptr : in_place - range.begin * in_place_layout_.row_stride;
  bool finite = true;
  for (std::int64_t first = range.begin; first < range.end; first += panel_width) {
    const std::int64_t count = std::min(panel_width, range.end - first);
    const Operands k = operands(true, tensors_.k, batch, kv_head, block_begin + first, count, staging);
    kernels_.pack_transposed(static_cast<const float*>(k.rows), k.stride / blocking_.per_word, count, blocking_.key_words,
                             key_panel(to, block, first), key_layout_.row_stride);
    if (in_place != nullptr) continue;
    const Operands v = operands(false, tensors_.v, batch, kv_head, block_begin + first, count, staging);
    finite &= arithmetic_.pack_finite(v.rows, v.stride, count, sizes_.v_head_dim, value_row(to, block, first), value_layout_);
  }
  to.finite[block] = finite;
}

}  // namespace attn
