// Waiting for another thread's progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace attn::detail {

/// Waits until the count reaches the target. Spins: what is waited for is being done by another
/// thread and takes microseconds. Yields if that takes longer, since the other thread may be
/// waiting for this processor.
inline void wait_for(const std::atomic<std::int64_t>& count, std::int64_t target) {
  for (int spins = 0; count.load(std::memory_order_acquire) < target; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

}  // namespace attn::detail
