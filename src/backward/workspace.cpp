#include "backward/workspace.hpp"

#include <algorithm>
#include <new>

#include "tensor/rounding.hpp"
#include "tensor/size.hpp"

namespace attn::detail {
namespace {

HeadSlot carve_slot(Arena& arena, const BackwardPlan& plan) {
  const Blocking& blocking = plan.call.packed;
  const std::int64_t rows = plan.padded_rows, chunk_rows = plan.copies * rows;
  const bool pairs = blocking.vnni_factor == 2;
  const auto sums = [&](bool wanted) { return wanted ? arena.take<double>(chunk_rows) : nullptr; };
  HeadSlot slot{};
  slot.queries = arena.take<float>(rows * plan.query_stride);
  slot.query_rows = pairs ? arena.take<float>(rows / 2 * plan.key_width) : slot.queries;
  slot.douts = arena.take<float>(rows * plan.dout_stride);
  slot.dout_rows = pairs ? arena.take<float>(rows / 2 * blocking.value_width) : slot.douts;
  slot.base = arena.take<float>(rows);
  slot.shift = arena.take<float>(rows);
  slot.mean = arena.take<float>(rows);
  if (plan.extras.full_rows) slot.thresholds = arena.take<EntmaxRowGradient>(rows);
  slot.query_finite = arena.take<std::uint8_t>(rows);
  slot.dout_finite = arena.take<std::uint8_t>(rows);
  slot.dq = arena.take<float>(chunk_rows * plan.key_width);
  slot.distance_sums = sums(plan.extras.dalibi);
  slot.score_sums = sums(plan.extras.mask_sums == MaskSums::rows);
  return slot;
}

ColumnScratch carve_thread(Arena& arena, const BackwardPlan& plan) {
  const Blocking& blocking = plan.call.packed;
  const Sizes& sizes = plan.call.sizes;
  const std::int64_t keys = blocking.kv_block, stride = score_stride(blocking);
  const std::int64_t tile = kernels::tile_rows * stride;
  const bool pairs = blocking.vnni_factor == 2;
  const auto tiles = [&](bool wanted) { return wanted ? arena.take<float>(tile) : nullptr; };
  ColumnScratch scratch{};
  scratch.tiles.visible = arena.take<std::uint8_t>(kernels::tile_rows * keys);
  scratch.tiles.mask_rows = arena.take<float>(kernels::tile_rows * keys);
  scratch.tiles.staging = arena.take<float>(std::max(plan.call.panel_width, std::int64_t{2}) *
                                            std::max(plan.key_width, blocking.value_width));
  scratch.keys_transposed = arena.take<float>(keys * plan.transposed_keys);
  scratch.values_transposed = arena.take<float>(keys * plan.transposed_values);
  scratch.score_block = arena.take<float>(plan.call.onednn_rows * keys);
  scratch.gradient_block = arena.take<float>(plan.call.onednn_rows * keys);
  scratch.key_rows = arena.take<float>(keys / blocking.vnni_factor * plan.key_width);
  scratch.dk = arena.take<float>(keys * plan.key_width);
  scratch.dv = arena.take<float>(keys * blocking.value_width);
  scratch.probabilities = arena.take<float>(blocking.q_block / blocking.vnni_factor * stride);
  scratch.gradients = arena.take<float>(blocking.q_block / blocking.vnni_factor * stride);
  scratch.tile_probabilities = tiles(pairs);
  scratch.tile_gradients = tiles(pairs);
  scratch.saved = {tiles(plan.extras.softcap), tiles(plan.extras.score_mod), stride};
  if (plan.extras.mask_sums == MaskSums::columns)
    scratch.column_sums = arena.take<double>(sizes.group_size * keys);
  if (plan.extras.full_rows) {
    const std::int64_t full_stride = row_stride(blocking);
    scratch.full_rows = {.scores = arena.take<float>(blocking.q_block * full_stride),
                         .gradients = arena.take<float>(blocking.q_block * full_stride),
                         .search = arena.take<float>(2 * full_stride)};
  }
  return scratch;
}

}  // namespace

BackwardScratch::Shared BackwardScratch::carve_shared(Arena& arena, const BackwardPlan& plan) {
  const Sizes& sizes = plan.call.sizes;
  const std::int64_t heads = sizes.batch * sizes.num_kv_heads;
  const auto rows = [&](bool wanted) {
    return wanted ? arena.take<double>(plan.total_rows) : nullptr;
  };
  Shared shared{};
  shared.next_ticket = arena.take<std::atomic<std::int64_t>>(1);
  shared.heads = arena.take<BackwardHead>(heads + 1);
  shared.progress = arena.take<Progress>(heads);
  shared.columns =
      arena.take<std::atomic<std::int64_t>>(saturating_product(heads, plan.columns.count));
  shared.distance_sums = rows(plan.extras.dalibi);
  shared.score_sums = rows(plan.extras.mask_sums == MaskSums::rows);
  shared.sink_terms = rows(plan.extras.dsinks);
  if (plan.extras.mask_sums == MaskSums::columns) {
    shared.column_sums =
        arena.take<double>(saturating_product(sizes.batch * sizes.num_q_heads, sizes.kv_len));
  }
  shared.scanned_rows = arena.take<MaskRow>(plan.call.scanned_rows);
  return shared;
}

std::size_t BackwardScratch::size(const BackwardPlan& plan) noexcept {
  const auto slots = static_cast<std::size_t>(plan.slots),
             threads = static_cast<std::size_t>(plan.call.num_threads);
  const std::size_t shared = Arena::alignment + measure(carve_shared, plan);
  const std::size_t in_flight = saturating_product(slots, measure(carve_slot, plan));
  const std::size_t own = saturating_product(threads, measure(carve_thread, plan));
  return saturating_sum(saturating_sum(shared, in_flight), own);
}

BackwardScratch::BackwardScratch(const BackwardPlan& plan, void* memory) noexcept : plan_(plan) {
  Arena arena(align_up(memory));
  shared_ = carve_shared(arena, plan);
  const std::int64_t heads = plan.call.sizes.batch * plan.call.sizes.num_kv_heads;
  new (shared_.next_ticket) std::atomic<std::int64_t>(0);
  for (std::int64_t n = 0; n <= heads; ++n) new (shared_.heads + n) BackwardHead;
  for (std::int64_t n = 0; n < heads; ++n) new (shared_.progress + n) Progress{0, 0, 0};
  for (std::int64_t n = 0; n < heads * plan.columns.count; ++n)
    new (shared_.columns + n) std::atomic<std::int64_t>(0);
  slots_begin_ = arena.take<std::byte>(0);
  threads_begin_ = slots_begin_ + static_cast<std::size_t>(plan.slots) * measure(carve_slot, plan);
}

HeadSlot BackwardScratch::slot(std::int64_t index) const noexcept {
  Arena arena(slots_begin_ + static_cast<std::size_t>(index) * measure(carve_slot, plan_));
  return carve_slot(arena, plan_);
}

ColumnScratch BackwardScratch::thread(int thread) const noexcept {
  Arena arena(threads_begin_ + static_cast<std::size_t>(thread) * measure(carve_thread, plan_));
  return carve_thread(arena, plan_);
}

}  // namespace attn::detail
