// Threads and how they share work. Work is taken, never assigned: of the threads that a call asks
// for, any number may come, at any time, and those that take part go on until no work is left. So
// work may wait for other work only if a thread that takes part has begun that: if items are taken
// in the order of their numbers, for example, and wait for items with lower numbers. Only this
// folder uses OpenMP.
//
//   parallel.hpp    loops over work that threads share
//   region.hpp      the time in which threads may enter a call, and the wait for those inside
//   pool.hpp        the library's own threads
//   openmp.hpp      OpenMP's threads
//   team_size.hpp   how many threads a call means, and how many OpenMP surely grants
//   processors.hpp  processors that a thread may use
//   wait.hpp        waiting for work that another thread has begun
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "threads/region.hpp"
#include "threads/team_size.hpp"  // IWYU pragma: export

namespace attn::detail {

/// Lowers `least` to `value` if that is less.
inline void atomic_min(std::atomic<std::int64_t>& least, std::int64_t value) noexcept {
  std::int64_t before = least.load();
  while (value < before && !least.compare_exchange_weak(before, value)) {
  }
}

/// The threads of one call, some of which may come late or never. An exception must not leave the
/// call's body, so work that can throw runs inside attempt().
class Team {
 public:
  explicit Team(int most) : size_(most) {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  /// No more threads than this take part.
  int size() const noexcept { return size_; }
  bool failed() const noexcept { return failed_.load(std::memory_order_relaxed); }

  /// Runs f unless a thread has failed before, and keeps the first exception that it throws.
  template <class F>
  void attempt(F&& f) noexcept {
    if (failed()) return;
    try {
      std::forward<F>(f)();
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }

 private:
  friend void run_team(const Threads& threads, const TeamBody& body);

  int size_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

/// Runs the body on each thread that takes part, and then rethrows the exception that attempt()
/// kept, if any.
void run_team(const Threads& threads, const TeamBody& body);

/// Runs f(team, thread) on the calling thread and on at most threads.count - 1 others, with
/// different numbers 0 <= thread < threads.count. Returns when all that have begun have ended.
/// Allocates nothing, if the executor does not.
template <class F>
void parallel(const Threads& threads, F&& f) {
  using Body = std::remove_reference_t<F>;
  run_team(threads, {[](void* context, Team& team, int thread) {
                       (*static_cast<Body*>(context))(team, thread);
                     },
                     const_cast<std::remove_const_t<Body>*>(&f)});
}

/// The indices 0 <= index < count, divided into one contiguous share for each thread. A thread
/// first processes its own share and then what is left of the others'. Shares depend only on count
/// and num_threads, so in a series of loops a thread processes the same indices again, and what it
/// reads and writes stays in the caches of its core.
class WorkStealingRange {
 public:
  WorkStealingRange(std::int64_t count, int num_threads) noexcept
      : count_(count), num_shares_(std::clamp(num_threads, 1, max_shares)) {
    for (int share = 0; share < num_shares_; ++share)
      new (&next_[share].index) std::atomic<std::int64_t>(share_begin(share));
  }

  /// The next index for a thread, if any is left.
  std::optional<std::int64_t> take(int thread) {
    for (int n = 0; n < num_shares_; ++n) {
      const int share = (thread + n) % num_shares_;
      const std::int64_t end = share_begin(share + 1);
      if (next_[share].index >= end) continue;
      const std::int64_t index = next_[share].index++;
      if (index < end) return index;
    }
    return std::nullopt;
  }
  /// Calls f(index) for each index that this thread processes.
  template <class F>
  void for_each(int thread, F&& f) {
    while (const std::optional<std::int64_t> index = take(thread)) f(*index);
  }

 private:
  /// Further threads begin with the shares of others.
  static constexpr int max_shares = 64;
  /// The next index of a share, in a cache line of its own. Only those of existing shares are
  /// constructed.
  union alignas(64) NextIndex {
    NextIndex() {}
    std::atomic<std::int64_t> index;
  };

  /// The first count % num_shares shares are longer than the others by one index.
  std::int64_t share_begin(int share) const noexcept {
    return count_ / num_shares_ * share + std::min<std::int64_t>(share, count_ % num_shares_);
  }

  std::int64_t count_;
  int num_shares_;
  NextIndex next_[max_shares];
};

/// Runs f(index), or f(index, thread) with 0 <= thread < threads.count, for 0 <= index < count. The
/// indices are divided as WorkStealingRange says.
template <class F>
void parallel_for(const Threads& threads, std::int64_t count, F&& f) {
  const Threads useful = threads.at_most(count);
  WorkStealingRange shares(count, useful.count);
  parallel(useful, [&](Team& team, int thread) {
    shares.for_each(thread, [&](std::int64_t index) {
      team.attempt([&] {
        if constexpr (std::is_invocable_v<F&, std::int64_t, int>)
          f(index, thread);
        else
          f(index);
      });
    });
  });
}

}  // namespace attn::detail
