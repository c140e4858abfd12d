#include "attention/workspace.hpp"

#include <algorithm>
#include <new>

#include "kernels/kernels.hpp"
#include "tensor/memory.hpp"

namespace attn {
namespace {

PackedHead carve_head(Arena& arena, const ScratchShape& shape) {
  const Blocking& blocking = shape.blocking;
  return {
      .keys = arena.take<float>(blocking.kv_blocks * blocking.key_words * blocking.kv_block),
      .values = arena.take<float>(blocking.kv_blocks * blocking.value_panels * blocking.value_panel_width * blocking.value_words()),
      .values_in_place = arena.take<const float*>(blocking.kv_blocks),
      .finite = arena.take<std::uint8_t>(blocking.kv_blocks),
  };
}

ThreadScratch carve_thread(Arena& arena, const ScratchShape& shape) {
  const Blocking& blocking = shape.blocking;
  const std::int64_t row_floats = std::max(shape.sizes.head_dim, blocking.value_width);
  return {
      .queries = arena.take<float>(blocking.q_block * blocking.key_words),
      .out = arena.take<float>(blocking.q_block * blocking.value_width),
      .row_max = arena.take<float>(blocking.q_block),
      .row_sum = arena.take<float>(blocking.q_block),
      .scores = arena.take<float>(kernels::tile_rows * score_stride(blocking)),
      .maxima = arena.take<float>(kernels::tile_rows * kernels::max_vector_width),
      .visible = arena.take<std::uint8_t>(kernels::tile_rows * blocking.kv_block),
      .mask_rows = arena.take<float>(kernels::tile_rows * blocking.kv_block),
      .staging = arena.take<float>(shape.panel_width * row_floats),
      .score_tile = shape.score_tiles ? arena.take<float>(blocking.q_block * blocking.kv_block) : nullptr,
  };
}

template <class Carve>
std::size_t measure(Carve carve, const ScratchShape& shape) {
  Arena arena(nullptr);
  carve(arena, shape);
  return arena.used();
}

std::size_t counters_size(const ScratchShape& shape) {
  Arena arena(nullptr);
  arena.take<std::atomic<std::int64_t>>(1);
  arena.take<SlotProgress>(shape.slots);
  return arena.used();
}

std::byte* align_up(void* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return static_cast<std::byte*>(memory) + (Arena::alignment - address % Arena::alignment) % Arena::alignment;
}

}  // namespace

/// One vector more than the keys, so that the rows of a tile fall into different cache sets.
std::int64_t score_stride(const Blocking& blocking) noexcept { return blocking.kv_block + kernels::max_vector_width; }

std::size_t Scratch::size(const ScratchShape& shape) noexcept {
  return Arena::alignment + counters_size(shape) + static_cast<std::size_t>(shape.slots) * measure(carve_head, shape) +
         static_cast<std::size_t>(shape.num_threads) * measure(carve_thread, shape);
}

Scratch::Scratch(const ScratchShape& shape, void* memory) noexcept : shape_(shape) {
  Arena arena(align_up(memory));
  next_ticket_ = new (arena.take<std::atomic<std::int64_t>>(1)) std::atomic<std::int64_t>(0);
  progress_ = arena.take<SlotProgress>(shape.slots);
  for (std::int64_t slot = 0; slot < shape.slots; ++slot) new (progress_ + slot) SlotProgress{0, 0};
  slots_begin_ = arena.take<std::byte>(0);
  threads_begin_ = slots_begin_ + static_cast<std::size_t>(shape.slots) * measure(carve_head, shape);
}

PackedHead Scratch::packed(std::int64_t slot) const noexcept {
  Arena arena(slots_begin_ + static_cast<std::size_t>(slot) * measure(carve_head, shape_));
  return carve_head(arena, shape_);
}

ThreadScratch Scratch::thread(int thread) const noexcept {
  Arena arena(threads_begin_ + static_cast<std::size_t>(thread) * measure(carve_thread, shape_));
  return carve_thread(arena, shape_);
}

Workspace::Workspace(std::size_t size_in_bytes)
    : owned_(allocate(size_in_bytes)), data_(owned_.get()), size_(size_in_bytes) {}

Workspace::Workspace(void* memory, std::size_t size_in_bytes) noexcept : data_(memory), size_(size_in_bytes) {}

void Workspace::Free::operator()(void* memory) const noexcept { release(memory); }

}  // namespace attn
