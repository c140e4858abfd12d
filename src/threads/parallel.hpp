// Threads and how they share work. Only this folder uses OpenMP.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "threads/team_size.hpp"  // IWYU pragma: export

namespace attn::detail {

/// Lowers `least` to `value` if that is less.
inline void atomic_min(std::atomic<std::int64_t>& least, std::int64_t value) noexcept {
  std::int64_t before = least.load();
  while (value < before && !least.compare_exchange_weak(before, value)) {
  }
}

/// The threads of one parallel region. An exception must not leave the region, and no thread may
/// miss a barrier because of one, so work that can throw runs inside attempt().
class Team {
 public:
  explicit Team(int requested) : size_(requested) {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const noexcept { return size_; }
  void barrier() noexcept;
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
  friend void run_team(Team& team, void (*body)(void*, Team&, int), void* context);

  int size_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

/// Runs body on each thread of the team, and then rethrows the exception that attempt() kept, if
/// any.
void run_team(Team& team, void (*body)(void* context, Team& team, int thread), void* context);

/// Runs f(team, thread) on at most num_threads threads; team.size() is their number. Allocates
/// nothing.
template <class F>
void parallel(int num_threads, F&& f) {
  using Body = std::remove_reference_t<F>;
  Team team(num_threads);
  run_team(
      team,
      [](void* context, Team& shared, int thread) {
        (*static_cast<Body*>(context))(shared, thread);
      },
      const_cast<std::remove_const_t<Body>*>(&f));
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

/// Runs f(index), or f(index, thread) with 0 <= thread < num_threads, for 0 <= index < count. The
/// indices are divided as WorkStealingRange says.
template <class F>
void parallel_for(int num_threads, std::int64_t count, F&& f) {
  const int threads = static_cast<int>(std::clamp<std::int64_t>(count, 1, num_threads));
  WorkStealingRange shares(count, threads);
  parallel(threads, [&](Team& team, int thread) {
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
