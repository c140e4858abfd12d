#include <attn/block_mask.hpp>

#include <limits>
#include <span>
#include <vector>

#include "capi/handles.hpp"
#include "capi/status.hpp"
#include "capi/tensors.hpp"

using namespace attn;
using namespace attn::capi;

namespace {

BlockMaskSizes sizes_of(const attn_block_mask_sizes* sizes) {
  const attn_block_mask_sizes& from = required(sizes, "sizes");
  return {.q_len = from.q_len,
          .kv_len = from.kv_len,
          .batch = from.batch,
          .num_q_heads = from.num_q_heads,
          .block = {from.q_block, from.kv_block}};
}

MaskModContext context_of(const attn_mask_mod_context* context) {
  if (context == nullptr) return {};
  return {.group_size = context->group_size, .q_position = position_of(context->q_position)};
}

BlockLists lists_of(const attn_block_lists* lists, const char* name) {
  const attn_block_lists& from = required(lists, name);
  return {.offsets = optional_view(from.offsets, "offsets"),
          .columns = optional_view(from.columns, "columns")};
}

attn_block_kind number_of(BlockKind kind) {
  switch (kind) {
    case BlockKind::empty: return ATTN_BLOCK_EMPTY;
    case BlockKind::partial: return ATTN_BLOCK_PARTIAL;
    case BlockKind::full: break;
  }
  return ATTN_BLOCK_FULL;
}

}  // namespace

attn_status attn_block_mask_from_mask_mod(attn_block_mask** mask, attn_mask_mod function,
                                          void* user, const attn_block_mask_sizes* sizes,
                                          const attn_mask_mod_context* context,
                                          const attn_execution* execution) {
  return create(mask, "mask", [&] {
    required(function, "function");
    return new attn_block_mask{BlockMask::from_mask_mod(mask_mod_of(function, user),
                                                        sizes_of(sizes), context_of(context),
                                                        execution_of(execution))};
  });
}

attn_status attn_block_mask_from_mask(attn_block_mask** mask, const attn_tensor* dense_mask,
                                      const attn_block_mask_sizes* sizes,
                                      const attn_execution* execution) {
  return create(mask, "mask", [&] {
    return new attn_block_mask{BlockMask::from_mask(view(dense_mask, "dense_mask"), sizes_of(sizes),
                                                    execution_of(execution))};
  });
}

attn_status attn_block_mask_from_documents(attn_block_mask** mask, const attn_tensor* q_documents,
                                           const attn_tensor* kv_documents, std::int64_t q_block,
                                           std::int64_t kv_block) {
  return create(mask, "mask", [&] {
    return new attn_block_mask{BlockMask::from_documents(
        view(q_documents, "q_documents"), view(kv_documents, "kv_documents"), {q_block, kv_block})};
  });
}

attn_status attn_block_mask_from_ranges(attn_block_mask** mask, const attn_visible_range* ranges,
                                        std::int64_t num_ranges,
                                        const attn_block_mask_sizes* sizes) {
  return create(mask, "mask", [&] {
    require_array(ranges, num_ranges, "ranges");
    std::vector<VisibleRange> copies;
    for (std::int64_t n = 0; n < num_ranges; ++n)
      copies.push_back(
          {ranges[n].q_begin, ranges[n].q_end, ranges[n].key_begin, ranges[n].key_end});
    return new attn_block_mask{BlockMask::from_ranges(copies, sizes_of(sizes))};
  });
}

attn_status attn_block_mask_from_lists(attn_block_mask** mask, const attn_block_lists* full,
                                       const attn_block_lists* partial,
                                       const attn_block_mask_sizes* sizes) {
  return create(mask, "mask", [&] {
    return new attn_block_mask{BlockMask::from_lists(
        lists_of(full, "full"), lists_of(partial, "partial"), sizes_of(sizes))};
  });
}

attn_status attn_block_mask_destroy(attn_block_mask* mask) { return destroy(mask); }

attn_status attn_block_mask_get_sizes(const attn_block_mask* mask, attn_block_mask_sizes* sizes) {
  return guarded([&] {
    const BlockMaskSizes& from = required(mask, "mask").mask.sizes();
    required(sizes, "sizes") = {.q_len = from.q_len,
                                .kv_len = from.kv_len,
                                .batch = from.batch,
                                .num_q_heads = from.num_q_heads,
                                .q_block = from.block.q,
                                .kv_block = from.block.kv};
  });
}

attn_status attn_block_mask_count(const attn_block_mask* mask, attn_block_kind kind,
                                  std::int64_t* count) {
  return guarded([&] {
    const BlockMask::Counts& counts = required(mask, "mask").mask.counts();
    required(count, "count");
    switch (kind) {
      case ATTN_BLOCK_EMPTY: *count = counts.empty; break;
      case ATTN_BLOCK_PARTIAL: *count = counts.partial; break;
      case ATTN_BLOCK_FULL: *count = counts.full; break;
      default: reject_enumerator("kind", kind);
    }
  });
}

attn_status attn_block_mask_get_kind(const attn_block_mask* mask, std::int64_t batch,
                                     std::int64_t q_head, std::int64_t q_block,
                                     std::int64_t kv_block, attn_block_kind* kind) {
  return guarded([&] {
    const BlockMask& from = required(mask, "mask").mask;
    required(kind, "kind") = number_of(from.kind(batch, q_head, q_block, kv_block));
  });
}

attn_status attn_block_mask_density(const attn_block_mask* mask, double* density) {
  return guarded([&] {
    required(density, "density") =
        required(mask, "mask").mask.density().value_or(std::numeric_limits<double>::quiet_NaN());
  });
}

attn_status attn_block_mask_visible_keys(const attn_block_mask* mask, const attn_key_run* run,
                                         std::uint8_t* visible) {
  return guarded([&] {
    const BlockMask& from = required(mask, "mask").mask;
    const attn_key_run& keys = required(run, "run");
    static_assert(sizeof(bool) == sizeof(std::uint8_t));
    from.visible_keys({.batch = keys.batch,
                       .q_head = keys.q_head,
                       .kv_head = keys.kv_head,
                       .q_index = keys.q_index,
                       .q_position = keys.q_position,
                       .key_begin = keys.key_begin,
                       .count = keys.count},
                      reinterpret_cast<bool*>(&required(visible, "visible")));
  });
}
