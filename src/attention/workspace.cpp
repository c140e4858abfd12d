#include "attention/workspace.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "kernels/kernels.hpp"
#include "tensor/checks.hpp"
#include "tensor/memory.hpp"
#include "tensor/rounding.hpp"
#include "tensor/size.hpp"

namespace attn::detail {
namespace {

/// Room for the values of some blocks of keys, and for the keys themselves if they are packed.
PackedHead carve_blocks(Arena& arena, const CallPlan& plan, std::int64_t blocks, bool keys) {
  const std::int64_t pieces = keys ? plan.pack_pieces : 1;
  const Blocking& blocking = plan.packed;
  const std::int64_t scales = plan.scaled() ? blocks * blocking.kv_block : 0;
  return {
      .keys = arena.take<float>(keys ? blocks * blocking.key_rows * blocking.kv_block : 0),
      .values = arena.take<float>(blocks * blocking.value_panels * blocking.value_panel_width *
                                  blocking.value_depth()),
      .key_scales = arena.take<float>(scales),
      .value_scales = arena.take<float>(scales),
      .values_in_place = arena.take<const float*>(blocks),
      .finite = arena.take<std::uint8_t>(blocks * pieces),
      .pieces = pieces,
  };
}

PackedHead carve_head(Arena& arena, const CallPlan& plan) {
  return carve_blocks(arena, plan, plan.packed.kv_blocks, true);
}

SoftmaxStates carve_states(Arena& arena, std::int64_t rows, std::int64_t value_width) {
  return {.out = arena.take<float>(rows * value_width),
          .row_max = arena.take<float>(rows),
          .row_sum = arena.take<float>(rows)};
}

ThreadScratch carve_thread(Arena& arena, const CallPlan& plan) {
  // A thread computes packed heads and heads that are read in place in turn.
  const std::int64_t some_rows = plan.blockwise_rows;
  const auto greater = [&plan, some_rows](auto of) {
    return std::max(plan.some_packed || some_rows > 0 ? of(plan.packed) : 0,
                    plan.some_unpacked ? of(plan.unpacked) : 0);
  };
  const std::int64_t rows_in_panels = round_up(some_rows, plan.panel_width);
  const std::int64_t kv_block = greater([](const Blocking& b) { return b.kv_block; });
  const std::int64_t q_block =
      std::max(greater([](const Blocking& b) { return b.q_block; }), some_rows);
  const std::int64_t value_width = greater([](const Blocking& b) { return b.value_width; });
  const std::int64_t query_floats =
      std::max(greater([](const Blocking& b) { return b.q_block * b.key_depth; }),
               some_rows * plan.packed.key_depth);
  const bool full_rows = plan.needs_full_rows;
  const std::int64_t score_rows =
      std::max({kernels::tile_rows, rows_in_panels, full_rows ? plan.onednn_rows : 0});
  const std::int64_t kv_blocks = full_rows ? plan.packed.kv_blocks : 0;
  const std::int64_t full_stride = row_stride(plan.packed);
  return {
      .queries = arena.take<float>(query_floats),
      .states = carve_states(arena, q_block, value_width),
      .saved = carve_states(arena, kernels::tile_rows, value_width),
      .scores = arena.take<float>(score_rows * (full_rows ? full_stride : greater(score_stride))),
      .maxima = arena.take<float>(kernels::tile_rows * kernels::max_vector_width),
      .visible =
          arena.take<std::uint8_t>(kernels::tile_rows * kv_block * (full_rows ? kv_blocks : 1)),
      .mask_rows = arena.take<float>(kernels::tile_rows * kv_block),
      .row_scales = arena.take<float>(plan.kv_type == DType::i8 ? kv_block : 0),
      .paired_rows =
          arena.take<float>(plan.kv_type == DType::i8 ? kernels::tile_rows * kv_block : 0),
      .staging = arena.take<float>(plan.panel_width * std::max(plan.sizes.head_dim, value_width)),
      .score_tile = arena.take<float>(plan.onednn_rows * plan.packed.kv_block),
      .query_panels = arena.take<float>(rows_in_panels * plan.packed.key_depth),
      .transposed_scores = arena.take<float>(rows_in_panels * plan.transposed_keys),
      .block_values = carve_blocks(arena, plan, some_rows > 0 ? 1 : 0, false),
      .row_scratch = arena.take<float>(full_rows ? 2 * full_stride : 0),
      .tiles = arena.take<QueryTile>(kv_blocks),
  };
}

}  // namespace

/// One vector more than the keys, so that the rows of a tile lie in different cache sets.
std::int64_t score_stride(const Blocking& blocking) noexcept {
  return blocking.kv_block + kernels::max_vector_width;
}

std::int64_t row_stride(const Blocking& blocking) noexcept {
  return blocking.kv_blocks * blocking.kv_block + kernels::max_vector_width;
}

Scratch::Shared Scratch::carve_shared(Arena& arena, const CallPlan& plan) {
  const std::int64_t heads = plan.sizes.batch * plan.sizes.num_kv_heads;
  return {.next_ticket = arena.take<std::atomic<std::int64_t>>(1),
          .sequences = arena.take<SequenceWork>(plan.sizes.batch),
          .heads = arena.take<HeadWork>(heads),
          .progress = arena.take<HeadProgress>(heads),
          .partials = carve_states(arena, plan.partial_rows, plan.unpacked.value_width),
          .scanned_rows = arena.take<MaskRow>(plan.scanned_rows)};
}

std::size_t Scratch::size(const CallPlan& plan) noexcept {
  const auto slots = static_cast<std::size_t>(plan.packed_slots),
             threads = static_cast<std::size_t>(plan.num_threads);
  const std::size_t shared = Arena::alignment + measure(carve_shared, plan);
  const std::size_t packed = saturating_product(slots, measure(carve_head, plan));
  const std::size_t own = saturating_product(threads, measure(carve_thread, plan));
  return saturating_sum(saturating_sum(shared, packed), own);
}

Scratch::Scratch(const CallPlan& plan, void* memory) noexcept : plan_(plan) {
  Arena arena(align_up(memory));
  shared_ = carve_shared(arena, plan);
  new (shared_.next_ticket) std::atomic<std::int64_t>(0);
  slots_begin_ = arena.take<std::byte>(0);
  threads_begin_ =
      slots_begin_ + static_cast<std::size_t>(plan.packed_slots) * measure(carve_head, plan);
}

SoftmaxStates Scratch::partial(std::int64_t row) const noexcept {
  return shared_.partials.from(row, plan_.unpacked.value_width);
}

PackedHead Scratch::packed(std::int64_t slot) const noexcept {
  Arena arena(slots_begin_ + static_cast<std::size_t>(slot) * measure(carve_head, plan_));
  return carve_head(arena, plan_);
}

ThreadScratch Scratch::thread(int thread) const noexcept {
  Arena arena(threads_begin_ + static_cast<std::size_t>(thread) * measure(carve_thread, plan_));
  return carve_thread(arena, plan_);
}

}  // namespace attn::detail

namespace attn {

Workspace::Workspace(std::size_t size_in_bytes)
    : owned_(detail::allocate(size_in_bytes)), data_(owned_.get()), size_(size_in_bytes) {}

Workspace::Workspace(void* memory, std::size_t size_in_bytes)
    : data_(memory), size_(size_in_bytes) {
  if (memory == nullptr && size_in_bytes > 0)
    detail::reject(
        fmt::format("workspace of {} bytes has no memory (null pointer)", size_in_bytes));
}

Workspace::Workspace(Workspace&& other) noexcept
    : owned_(std::move(other.owned_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Workspace& Workspace::operator=(Workspace&& other) noexcept {
  owned_ = std::move(other.owned_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void Workspace::Free::operator()(void* memory) const noexcept { detail::release(memory); }

}  // namespace attn
