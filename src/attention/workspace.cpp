#include "attention/workspace.hpp"

#include <algorithm>
#include <new>

#include "attention/query_tiles.hpp"
#include "kernels/kernels.hpp"
#include "tensor/memory.hpp"

namespace attn::detail {
namespace {

PackedHead carve_head(Arena& arena, const ScratchShape& shape) {
  const Blocking& blocking = shape.blocking;
  return {
      .keys = arena.take<float>(blocking.kv_blocks * blocking.key_depth * blocking.kv_block),
      .values = arena.take<float>(blocking.kv_blocks * blocking.value_panels *
                                  blocking.value_panel_width * blocking.value_depth()),
      .values_in_place = arena.take<const float*>(blocking.kv_blocks),
      .finite = arena.take<std::uint8_t>(blocking.kv_blocks),
  };
}

RowStates carve_states(Arena& arena, std::int64_t rows, std::int64_t value_width) {
  return {.out = arena.take<float>(rows * value_width),
          .row_max = arena.take<float>(rows),
          .row_sum = arena.take<float>(rows)};
}

ThreadScratch carve_thread(Arena& arena, const ScratchShape& shape) {
  // A thread takes packed heads and short ones in turn.
  const auto greater = [&shape](auto of) {
    return std::max(shape.packs ? of(shape.blocking) : 0,
                    shape.in_place ? of(shape.short_blocking) : 0);
  };
  const std::int64_t kv_block = greater([](const Blocking& blocking) { return blocking.kv_block; });
  const std::int64_t q_block = greater([](const Blocking& blocking) { return blocking.q_block; });
  const std::int64_t value_width =
      greater([](const Blocking& blocking) { return blocking.value_width; });
  const Blocking& blocks = shape.blocking;
  return {
      .queries = arena.take<float>(
          greater([](const Blocking& blocking) { return blocking.q_block * blocking.key_depth; })),
      .states = carve_states(arena, q_block, value_width),
      .saved = carve_states(arena, kernels::tile_rows, value_width),
      .scores =
          arena.take<float>(kernels::tile_rows *
                            (shape.needs_full_rows ? row_stride(blocks) : greater(score_stride))),
      .maxima = arena.take<float>(kernels::tile_rows * kernels::max_vector_width),
      .visible = arena.take<std::uint8_t>(kernels::tile_rows * kv_block *
                                          (shape.needs_full_rows ? blocks.kv_blocks : 1)),
      .mask_rows = arena.take<float>(kernels::tile_rows * kv_block),
      .staging = arena.take<float>(shape.panel_width * std::max(shape.sizes.head_dim, value_width)),
      .score_tile = shape.score_tiles ? arena.take<float>(q_block * kv_block) : nullptr,
      .row_scratch = arena.take<float>(shape.needs_full_rows ? 2 * row_stride(blocks) : 0),
      .tiles = arena.take<QueryTile>(shape.needs_full_rows ? blocks.kv_blocks : 0),
  };
}

template <class Carve>
std::size_t measure(Carve carve, const ScratchShape& shape) {
  Arena arena(nullptr);
  carve(arena, shape);
  return arena.used();
}

std::byte* align_up(void* memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  return static_cast<std::byte*>(memory) +
         (Arena::alignment - address % Arena::alignment) % Arena::alignment;
}

}  // namespace

/// One vector more than the keys, so that the rows of a tile fall into different cache sets.
std::int64_t score_stride(const Blocking& blocking) noexcept {
  return blocking.kv_block + kernels::max_vector_width;
}

std::int64_t row_stride(const Blocking& blocking) noexcept {
  return blocking.kv_blocks * blocking.kv_block + kernels::max_vector_width;
}

Scratch::Shared Scratch::carve_shared(Arena& arena, const ScratchShape& shape) {
  const std::int64_t heads = shape.sizes.batch * shape.sizes.num_kv_heads;
  return {.next_ticket = arena.take<std::atomic<std::int64_t>>(1),
          .entries = arena.take<SequenceWork>(shape.sizes.batch),
          .heads = arena.take<HeadWork>(heads),
          .progress = arena.take<HeadProgress>(heads),
          .partials = carve_states(arena, shape.partial_rows, shape.short_blocking.value_width)};
}

std::size_t Scratch::size(const ScratchShape& shape) noexcept {
  return Arena::alignment + measure(carve_shared, shape) +
         static_cast<std::size_t>(shape.slots) * measure(carve_head, shape) +
         static_cast<std::size_t>(shape.num_threads) * measure(carve_thread, shape);
}

Scratch::Scratch(const ScratchShape& shape, void* memory) noexcept : shape_(shape) {
  Arena arena(align_up(memory));
  shared_ = carve_shared(arena, shape);
  new (shared_.next_ticket) std::atomic<std::int64_t>(0);
  slots_begin_ = arena.take<std::byte>(0);
  threads_begin_ =
      slots_begin_ + static_cast<std::size_t>(shape.slots) * measure(carve_head, shape);
}

RowStates Scratch::partial(std::int64_t row) const noexcept {
  const RowStates& all = shared_.partials;
  return {all.out + row * shape_.short_blocking.value_width, all.row_max + row, all.row_sum + row};
}

PackedHead Scratch::packed(std::int64_t slot) const noexcept {
  Arena arena(slots_begin_ + static_cast<std::size_t>(slot) * measure(carve_head, shape_));
  return carve_head(arena, shape_);
}

ThreadScratch Scratch::thread(int thread) const noexcept {
  Arena arena(threads_begin_ + static_cast<std::size_t>(thread) * measure(carve_thread, shape_));
  return carve_thread(arena, shape_);
}

}  // namespace attn::detail

namespace attn {

Workspace::Workspace(std::size_t size_in_bytes)
    : owned_(detail::allocate(size_in_bytes)), data_(owned_.get()), size_(size_in_bytes) {}

Workspace::Workspace(void* memory, std::size_t size_in_bytes) noexcept
    : data_(memory), size_(size_in_bytes) {}

void Workspace::Free::operator()(void* memory) const noexcept { detail::release(memory); }

}  // namespace attn
