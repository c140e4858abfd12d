#include "attention/pack.hpp"

#include <algorithm>

#include "attention/run.hpp"
#include "iterate/row.hpp"

namespace attn::detail {

kernels::PanelLayout key_layout(const Blocking& blocking, std::int64_t panel_width,
                                bool one_matrix) noexcept {
  return one_matrix
             ? kernels::PanelLayout{blocking.kv_block, panel_width, panel_width}
             : kernels::PanelLayout{panel_width, blocking.key_depth * panel_width, panel_width};
}

kernels::PanelLayout value_layout(const Blocking& blocking) noexcept {
  return {blocking.value_panel_width, blocking.value_depth() * blocking.value_panel_width,
          blocking.value_panel_width};
}

Packer::Packer(const PreparedCall& prepared, const KvLayout& layout) noexcept
    : sizes_(prepared.problem.sizes),
      blocking_(prepared.blocking),
      kernels_(*prepared.kernels),
      arithmetic_(*prepared.arithmetic),
      layout_(layout),
      key_layout_(prepared.key_layout),
      value_layout_(value_layout(blocking_)),
      in_place_layout_{sizes_.v_head_dim, blocking_.value_panel_width,
                       blocking_.value_panel_width} {}

float* Packer::key_panel(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept {
  return head.keys + block * blocking_.key_depth * blocking_.kv_block +
         first_key / kernels_.panel_width * key_layout_.panel_stride;
}

float* Packer::value_row(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept {
  float* const first = head.values + block * blocking_.value_panels * value_layout_.panel_stride;
  return first + first_key / blocking_.vnni_factor * value_layout_.row_stride;
}

kernels::Panels Packer::keys(const PackedHead& head, std::int64_t block,
                             std::int64_t first_key) const noexcept {
  return {key_panel(head, block, first_key), key_layout_};
}

kernels::Panels Packer::values(const PackedHead& head, std::int64_t block,
                               std::int64_t first_key) const noexcept {
  const float* const in_place = head.values_in_place[block];
  if (in_place != nullptr)
    return {in_place + first_key * in_place_layout_.row_stride, in_place_layout_};
  return {value_row(head, block, first_key), value_layout_};
}

template <class RowOf>
Packer::Operands Packer::gather(const Keys& keys, std::int64_t width, float* staging,
                                RowOf row_of) const noexcept {
  const std::int64_t vnni_factor = blocking_.vnni_factor,
                     words = (width + vnni_factor - 1) / vnni_factor;
  for (std::int64_t done = 0; done < keys.count;) {
    const KeySpan stretch =
        layout_.keys(keys.batch, keys.kv_head, keys.first + done, keys.count - done);
    for (std::int64_t n = 0; n < stretch.count; ++n, ++done) {
      read_packed(row_of(stretch, n), width, vnni_factor, kernels_, staging + done * words);
    }
  }
  return {staging, words * vnni_factor};
}

Packer::Operands Packer::keys_to_pack(const Keys& keys, float* staging) const noexcept {
  const KeySpan stretch = layout_.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const bool packed =
      is_packed(stretch.first_key, sizes_.head_dim, blocking_.vnni_factor, stretch.key_stride);
  if (packed && stretch.count == keys.count) return {stretch.first_key.data, stretch.key_stride};
  return gather(keys, sizes_.head_dim, staging,
                [](const KeySpan& from, std::int64_t n) { return from.key(n); });
}

Packer::Operands Packer::values_to_pack(const Keys& keys, float* staging) const noexcept {
  const KeySpan stretch = layout_.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const Row& first = stretch.first_value;
  const bool as_operands =
      first.stride == 1 && first.dtype == (blocking_.vnni_factor == 2 ? DType::bf16 : DType::f32);
  if (as_operands && stretch.count == keys.count) return {first.data, stretch.value_stride};
  return gather(keys, sizes_.v_head_dim, staging,
                [](const KeySpan& from, std::int64_t n) { return from.value(n); });
}

/// The rows where they lie, if the micro-kernel can read them there: whole vectors of finite
/// floats, row upon row.
const float* Packer::values_in_place(const Keys& keys) const noexcept {
  const KeySpan stretch = layout_.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const Row& first = stretch.first_value;
  const bool as_panels = blocking_.vnni_factor == 1 && first.dense_f32() &&
                         sizes_.v_head_dim == blocking_.value_width &&
                         stretch.value_stride == sizes_.v_head_dim && stretch.count == keys.count &&
                         reinterpret_cast<std::uintptr_t>(first.data) % Arena::alignment == 0;
  return as_panels && kernels_.all_finite(first.floats(), keys.count * sizes_.v_head_dim)
             ? first.floats()
             : nullptr;
}

void Packer::pack(std::int64_t batch, std::int64_t kv_head, std::int64_t block, KeyRange wanted,
                  const PackedHead& to, float* staging) const noexcept {
  const std::int64_t block_begin = block * blocking_.kv_block;
  const std::int64_t panel_width = kernels_.panel_width;
  const KeyRange seen = intersection(wanted, {block_begin, block_begin + blocking_.kv_block});
  const KeyRange range{(seen.begin - block_begin) / panel_width * panel_width,
                       seen.end - block_begin};
  if (range.empty()) return;
  const float* const in_place =
      values_in_place({batch, kv_head, block_begin + range.begin, range.size()});
  to.values_in_place[block] =
      in_place == nullptr ? nullptr : in_place - range.begin * in_place_layout_.row_stride;
  bool finite = true;
  for (std::int64_t first = range.begin; first < range.end; first += panel_width) {
    const Keys keys{batch, kv_head, block_begin + first, std::min(panel_width, range.end - first)};
    const Operands k = keys_to_pack(keys, staging);
    kernels_.pack_transposed(static_cast<const float*>(k.rows), k.stride / blocking_.vnni_factor,
                             keys.count, blocking_.key_depth, key_panel(to, block, first),
                             key_layout_.row_stride);
    if (in_place != nullptr) continue;
    const Operands v = values_to_pack(keys, staging);
    finite &= arithmetic_.pack_finite(v.rows, v.stride, keys.count, sizes_.v_head_dim,
                                      value_row(to, block, first), value_layout_);
  }
  to.finite[block] = finite;
}

}  // namespace attn::detail
