// A region: the time in which several threads may take part in the work of one call.
//
// The caller opens it, offers it to other threads, takes part itself, and closes it when it finds
// no work left. A thread enters only while the region is open, and closing waits for those inside.
// Nobody waits for a thread that was offered the region and has not entered: when it comes, it
// finds the region closed.
//
// One atomic word, the gate, holds all of this: the generation, which each opening increments,
// whether the region is open, and how many threads are inside. Entering is a compare-and-exchange
// that expects the right generation and an open gate, so a thread that comes late, even to a region
// that another call has opened since, leaves it untouched.
//
// Regions are static and few. A thread may keep a Task as long as it likes, and nothing is
// allocated.
#pragma once

#include <attn/execution.hpp>

#include <atomic>
#include <cstdint>

namespace attn::detail {

class Team;

/// What each thread of a team runs.
struct TeamBody {
  void (*function)(void* context, Team& team, int thread);
  void* context;
};

class Region {
 public:
  using Generation = std::uint64_t;
  /// So many calls at a time run on several threads; further ones run on their own thread alone.
  static constexpr int number = 64;
  static constexpr int generation_bits = 45;

  /// A region that no other call uses; null if there is none. Give it back with release().
  static Region* acquire() noexcept;
  void release() noexcept { used_.store(false, std::memory_order_release); }

  /// Opens the region for threads 0 <= number < num_threads. The caller is number 0.
  Executor::Task open(Team& team, const TeamBody& body, int num_threads) noexcept;
  /// Runs the body as the caller, unless the executor has made the calling thread do so already.
  void take_part_as_caller() noexcept;
  /// Closes the region and waits for the threads inside.
  void close() noexcept;

  /// The region and the generation that a task stands for.
  static Region& region_of(const Executor::Task& task) noexcept { return *task.region_; }
  static Generation generation_of(const Executor::Task& task) noexcept { return task.generation_; }

  bool is_open(Generation generation) const noexcept;
  /// Whether the thread is inside now. If so, it calls leave().
  bool enter(Generation generation) noexcept;
  void leave() noexcept;
  /// Runs the body. The calling thread is inside, and no other thread has this number.
  void run(int thread) noexcept;
  /// Enters, runs the body with the next number that is free, and leaves.
  void take_part(Generation generation) noexcept;

  int index() const noexcept;
  static Region& at(int index) noexcept;

 private:
  std::atomic<bool> used_{false};
  bool caller_began_ = false;
  alignas(64) std::atomic<std::uint64_t> gate_{0};
  alignas(64) std::atomic<int> next_number_{1};
  int num_threads_ = 1;
  Team* team_ = nullptr;
  TeamBody body_{};
};

/// Whether the calling thread is running the body of a region.
bool inside_region() noexcept;

}  // namespace attn::detail
