// Waiting for another thread: a short spin, then sleep. On a busy machine, a thread that spins
// takes the processor's time from the one that it waits for.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace attn::detail {

/// Tells the processor that the thread spins.
inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until ready() is true, but not for longer than `time`. Returns whether it is.
template <class Ready>
bool spin_until(std::chrono::microseconds time, const Ready& ready) noexcept {
  constexpr int pauses = 32;  // between looks at the clock
  const auto end = std::chrono::steady_clock::now() + time;
  do {
    for (int n = 0; n < pauses; ++n) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

/// Waits until the count reaches the target. What is waited for is being done by another thread and
/// takes microseconds, unless that thread is waiting for a processor, perhaps for this one: then it
/// takes milliseconds, and the waiting thread sleeps. Nobody has to wake it, so that counting costs
/// nothing where nobody waits.
inline void wait_for(const std::atomic<std::int64_t>& count, std::int64_t target) {
  using std::chrono::microseconds;
  const auto reached = [&] { return count.load(std::memory_order_acquire) >= target; };
  if (reached() || spin_until(microseconds(20), reached)) return;
  const auto end = std::chrono::steady_clock::now() + microseconds(200);
  while (!reached()) {
    if (std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(microseconds(50));
    }
  }
}

}  // namespace attn::detail
