#include "threads/region.hpp"

#include <array>

#include "threads/processors.hpp"
#include "threads/wait.hpp"

namespace attn {

void Executor::Task::operator()() const noexcept { region_->take_part(generation_); }

Executor::~Executor() = default;

}  // namespace attn

namespace attn::detail {
namespace {

// The gate: threads inside, whether it is open, and the generation.
constexpr std::uint64_t inside_mask = 0xffff, open_bit = 0x10000;
constexpr int generation_shift = 17;
static_assert(generation_shift + Region::generation_bits <= 64);

constexpr std::uint64_t open_gate(Region::Generation generation) noexcept {
  return generation << generation_shift | open_bit;
}

constinit std::array<Region, Region::number> regions{};
thread_local bool inside = false;

/// The region that the thread looks at first: that of its last call, whose memory is in its cache.
thread_local int first_region = 0;

}  // namespace

bool inside_region() noexcept { return inside; }

Region* Region::acquire() noexcept {
  for (int n = 0; n < number; ++n) {
    const int index = (first_region + n) % number;
    Region& region = at(index);
    if (region.used_.load(std::memory_order_relaxed)) continue;
    if (region.used_.exchange(true, std::memory_order_acquire)) continue;
    first_region = index;
    return &region;
  }
  return nullptr;
}

Executor::Task Region::open(Team& team, const TeamBody& body, int num_threads) noexcept {
  team_ = &team;
  body_ = body;
  num_threads_ = num_threads;
  caller_began_ = false;
  next_number_.store(1, std::memory_order_relaxed);
  constexpr Generation generations = Generation{1} << generation_bits;
  const Generation generation =
      ((gate_.load(std::memory_order_relaxed) >> generation_shift) + 1) % generations;
  gate_.store(open_gate(generation), std::memory_order_release);
  return {*this, generation};
}

bool Region::is_open(Generation generation) const noexcept {
  return (gate_.load(std::memory_order_acquire) & ~inside_mask) == open_gate(generation);
}

bool Region::enter(Generation generation) noexcept {
  std::uint64_t gate = gate_.load(std::memory_order_relaxed);
  while ((gate & ~inside_mask) == open_gate(generation)) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire,
                                    std::memory_order_relaxed))
      return true;
  }
  return false;
}

void Region::leave() noexcept {
  const std::uint64_t before = gate_.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & open_bit) == 0 && (before & inside_mask) == 1) gate_.notify_all();
}

void Region::run(int thread) noexcept {
  inside = true;
  body_.function(body_.context, *team_, thread);
  inside = false;
}

void Region::take_part(Generation generation) noexcept {
  // The task may be called by a thread that is inside already, if an executor's own work calls the
  // library and waits for it by running other tasks meanwhile. Its number is in use.
  if (inside || !enter(generation)) return;
  const int thread = next_number_.fetch_add(1, std::memory_order_relaxed);
  if (thread < num_threads_) run(thread);
  leave();
}

void Region::take_part_as_caller() noexcept {
  if (caller_began_) return;
  caller_began_ = true;
  run(0);
}

void Region::close() noexcept {
  gate_.fetch_and(~open_bit, std::memory_order_acq_rel);
  const auto empty = [&] { return (gate_.load(std::memory_order_acquire) & inside_mask) == 0; };
  if (empty()) return;
  // A thread that sleeps may wake up on the processor of another thread of the same calls, and the
  // system takes milliseconds to part them. What is waited for is seldom longer than this, unless
  // it waits for a processor itself.
  constexpr std::chrono::microseconds longest(250);
  if (available_processors() > 1 && spin_until(longest, empty)) return;
  while (!empty()) {
    const std::uint64_t gate = gate_.load(std::memory_order_acquire);
    if ((gate & inside_mask) != 0) gate_.wait(gate, std::memory_order_acquire);
  }
}

int Region::index() const noexcept { return static_cast<int>(this - regions.data()); }

Region& Region::at(int index) noexcept { return regions[static_cast<std::size_t>(index)]; }

}  // namespace attn::detail
