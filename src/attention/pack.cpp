#include "attention/pack.hpp"

#include <algorithm>
#include <cmath>

#include "iterate/row.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {

Packer::Packer(const CallContext& context) noexcept
    : context_(context),
      in_place_layout_{context.sizes().v_head_dim, context.plan().packed.value_panel_width,
                       context.plan().packed.value_panel_width} {}

float* Packer::key_panel(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept {
  const CallPlan& plan = context_.plan();
  return head.keys + block * plan.packed.key_rows * plan.packed.kv_block +
         first_key / plan.panel_width * plan.key_layout.panel_stride;
}

float* Packer::value_row(const PackedHead& head, std::int64_t block,
                         std::int64_t first_key) const noexcept {
  const CallPlan& plan = context_.plan();
  return head.values +
         block * plan.packed.value_panels * plan.packed.value_panel_width *
             plan.packed.value_depth() +
         first_key / plan.packed.vnni_factor * plan.value_layout.row_stride;
}

kernels::Panels Packer::keys(const PackedHead& head, std::int64_t block,
                             std::int64_t first_key) const noexcept {
  return {key_panel(head, block, first_key), context_.plan().key_layout};
}

kernels::Panels Packer::values(const PackedHead& head, std::int64_t block,
                               std::int64_t first_key) const noexcept {
  const float* const in_place = head.pieces == 1 ? head.values_in_place[block] : nullptr;
  if (in_place != nullptr)
    return {in_place + first_key * in_place_layout_.row_stride, in_place_layout_};
  return {value_row(head, block, first_key), context_.plan().value_layout};
}

template <class RowOf>
Packer::Operands Packer::gather(const Keys& keys, std::int64_t width, float* staging,
                                RowOf row_of) const noexcept {
  const std::int64_t vnni_factor = context_.plan().packed.vnni_factor;
  const std::int64_t depth = divide_up(width, vnni_factor);
  for (std::int64_t done = 0; done < keys.count;) {
    const KeySpan span =
        context_.layout.keys(keys.batch, keys.kv_head, keys.first + done, keys.count - done);
    for (std::int64_t n = 0; n < span.count; ++n, ++done) {
      read_packed(row_of(span, n), width, vnni_factor, context_.kernels(), staging + done * depth);
    }
  }
  return {staging, depth * vnni_factor};
}

Packer::Operands Packer::key_operands(const Keys& keys, float* staging) const noexcept {
  const std::int64_t head_dim = context_.sizes().head_dim;
  const KeySpan span = context_.layout.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const bool packed =
      is_packed(span.first_key, head_dim, context_.plan().packed.vnni_factor, span.key_stride);
  if (packed && span.count == keys.count) return {span.first_key.data, span.key_stride};
  return gather(keys, head_dim, staging,
                [](const KeySpan& from, std::int64_t n) { return from.key(n); });
}

Packer::Operands Packer::value_operands(const Keys& keys, float* staging) const noexcept {
  const KeySpan span = context_.layout.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const Row& first = span.first_value;
  const DType operands = context_.plan().packed.vnni_factor == 2 ? DType::bf16 : DType::f32;
  const bool in_place = first.stride == 1 && first.dtype == operands;
  if (in_place && span.count == keys.count) return {first.data, span.value_stride};
  return gather(keys, context_.sizes().v_head_dim, staging,
                [](const KeySpan& from, std::int64_t n) { return from.value(n); });
}

/// Whether oneDNN can read the values in place, where it multiplies: it takes whole blocks.
bool Packer::fits_onednn(const Keys& keys) const noexcept {
  const CallPlan& plan = context_.plan();
  if (plan.packed_layout == PackedLayout::panels) return true;
  const bool one_panel = context_.sizes().v_head_dim == plan.packed.value_panel_width;
  return keys.count == plan.onednn_keys(keys.count) && (plan.values_in_rows || one_panel);
}

/// The first of the rows in memory if the micro-kernel can read them there, else null. It needs
/// whole vectors of finite floats, aligned, one row right after the other.
const float* Packer::values_in_place(const Keys& keys) const noexcept {
  const Blocking& blocking = context_.plan().packed;
  const std::int64_t v_head_dim = context_.sizes().v_head_dim;
  const KeySpan span = context_.layout.keys(keys.batch, keys.kv_head, keys.first, keys.count);
  const Row& first = span.first_value;
  const bool as_panels = blocking.vnni_factor == 1 && first.dense_f32() &&
                         v_head_dim == blocking.value_width && span.value_stride == v_head_dim &&
                         span.count == keys.count && fits_onednn(keys) &&
                         reinterpret_cast<std::uintptr_t>(first.data) % Arena::alignment == 0;
  if (!as_panels) return nullptr;
  const bool finite = context_.kernels().all_finite(first.floats(), keys.count * v_head_dim);
  return finite ? first.floats() : nullptr;
}

void Packer::pack(HeadIndex head, std::int64_t index, KeyRange wanted, const PackedHead& to,
                  float* staging) const noexcept {
  const CallPlan& plan = context_.plan();
  const std::int64_t panel_width = plan.panel_width, block = index / to.pieces;
  const std::int64_t block_begin = block * plan.packed.kv_block;
  const std::int64_t piece_keys = round_up(divide_up(plan.packed.kv_block, to.pieces), panel_width);
  const std::int64_t piece_begin = block_begin + index % to.pieces * piece_keys;
  const KeyRange piece{piece_begin,
                       std::min(piece_begin + piece_keys, block_begin + plan.packed.kv_block)};
  const KeyRange seen = intersection(wanted, piece);
  const KeyRange range{round_down(seen.begin - block_begin, panel_width), seen.end - block_begin};
  to.finite[index] = true;
  if (context_.plan().onednn_rows > 0) {
    const std::int64_t keys = std::clamp<std::int64_t>(
        context_.layout.kv_len(head.batch) - block_begin, 0, plan.packed.kv_block);
    const std::int64_t end = range.empty() ? piece.begin - block_begin : range.end;
    clear_values(to, block, {end, std::min(plan.onednn_keys(keys), piece.end - block_begin)});
  }
  if (range.empty()) return;
  for (std::int64_t first = range.begin; first < range.end; first += panel_width) {
    const Keys keys{head.batch, head.kv_head, block_begin + first,
                    std::min(panel_width, range.end - first)};
    const Operands k = key_operands(keys, staging);
    context_.kernels().pack_transposed(
        static_cast<const float*>(k.rows), k.stride / plan.packed.vnni_factor, keys.count,
        plan.packed.key_depth, key_panel(to, block, first), plan.key_layout.row_stride);
    const std::int64_t padding = plan.packed.key_rows - plan.packed.key_depth;
    std::fill_n(key_panel(to, block, first) + plan.packed.key_depth * plan.key_layout.row_stride,
                padding * plan.key_layout.row_stride, 0.f);
  }
  const Keys keys{head.batch, head.kv_head, block_begin + range.begin, range.size()};
  const bool good_scales = pack_scales(keys, block, range.begin, to);
  to.finite[index] = pack_values(keys, block, range.begin, to, staging) && good_scales;
}

/// oneDNN multiplies the rows of a block that no key has, with probabilities of 0.
void Packer::clear_values(const PackedHead& to, std::int64_t block, KeyRange keys) const noexcept {
  const CallPlan& plan = context_.plan();
  const std::int64_t vnni_factor = plan.packed.vnni_factor;
  const std::int64_t first = round_up(keys.begin, vnni_factor),
                     width = plan.value_layout.panel_width;
  for (std::int64_t key = first; key < keys.end; key += vnni_factor) {
    float* row = value_row(to, block, key);
    for (std::int64_t column = 0; column < plan.packed.value_width;
         column += width, row += plan.value_layout.panel_stride)
      std::fill_n(row, std::min(width, plan.packed.value_width - column), 0.f);
  }
}

/// Scales of keys may be anything where nobody sees the key. Of values, what is not finite becomes
/// 0, and magnitudes that are tiny in bf16 count as not finite, as those of bf16 values do.
bool Packer::pack_scales(const Keys& keys, std::int64_t block, std::int64_t at,
                         const PackedHead& to) const noexcept {
  if (!context_.plan().scaled()) return true;
  const std::int64_t first = block * context_.plan().packed.kv_block + at;
  bool finite = true;
  const std::int64_t chunk = context_.call.packed_arithmetic->chunk_keys;
  for (std::int64_t done = 0; done < keys.count;) {
    const KeySpan span =
        context_.layout.keys(keys.batch, keys.kv_head, keys.first + done, keys.count - done);
    for (std::int64_t n = 0; n < span.count; ++n, ++done) {
      const float scale = span.value(n).scale, magnitude = std::fabs(scale);
      const bool good = std::isfinite(scale) && (scale == 0 || magnitude >= kernels::tiny_bf16);
      finite &= good;
      to.key_scales[first + done] = span.key(n).scale;
      to.value_scales[first + done] = std::isfinite(scale) ? scale : 0.f;
    }
  }
  for (std::int64_t done = keys.count; (first + done) % chunk != 0; ++done)
    to.value_scales[first + done] = 0;
  return finite;
}

bool Packer::pack_values(const Keys& keys, std::int64_t block, std::int64_t at,
                         const PackedHead& to, float* staging) const noexcept {
  // Pieces of a block, which several threads pack at the same time, are copied.
  const float* const in_place = to.pieces == 1 ? values_in_place(keys) : nullptr;
  if (to.pieces == 1) {
    to.values_in_place[block] =
        in_place == nullptr ? nullptr : in_place - at * in_place_layout_.row_stride;
  }
  bool finite = true;
  const std::int64_t panel_width = context_.plan().panel_width;
  for (std::int64_t done = 0; in_place == nullptr && done < keys.count; done += panel_width) {
    const Keys part{keys.batch, keys.kv_head, keys.first + done,
                    std::min(panel_width, keys.count - done)};
    const Operands v = value_operands(part, staging);
    finite &= context_.call.packed_arithmetic->pack_finite(
        v.rows, v.stride, part.count, context_.sizes().v_head_dim, value_row(to, block, at + done),
        context_.plan().value_layout);
  }
  return finite;
}

}  // namespace attn::detail
