#include "mpi/overlap.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace attn::mpi {

void compute_while_polling(const std::function<void()>& compute,
                           const std::function<void()>& poll) {
  // A network of 10 Gb/s brings 64 KiB in this time, which buffers of the system hold.
  constexpr std::chrono::microseconds pause(50);
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::thread worker;
  try {
    worker = std::thread([&] {
      compute();
      const std::lock_guard lock(mutex);
      done = true;
      ended.notify_one();
    });
  } catch (const std::system_error&) {  // no more threads: one after the other
    return compute();
  }
  std::unique_lock lock(mutex);
  while (!ended.wait_for(lock, pause, [&] { return done; })) {
    lock.unlock();
    poll();
    lock.lock();
  }
  lock.unlock();
  worker.join();
}

}  // namespace attn::mpi
