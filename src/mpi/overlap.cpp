#include "mpi/overlap.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace attn::mpi {
namespace {

#if defined(__linux__) && defined(SYS_sched_getattr) && defined(SYS_sched_setattr)
/// While it exists, the calling thread has short time slices. Where all processors compute, a
/// thread that wakes for a moment would otherwise wait until one of them ends its slice, some
/// milliseconds later, and messages would stand still meanwhile: since Linux 6.12 a thread with
/// shorter slices goes first. It is best effort; older systems ignore the number.
class ShortSlices {
 public:
  ShortSlices() {
    constexpr std::uint64_t slice = 100'000;  // ns, the shortest there is
    readable_ = syscall(SYS_sched_getattr, 0, &before_, sizeof before_, 0) == 0;
    if (!readable_ || before_.policy != 0) return;  // not of the usual policy, SCHED_OTHER
    Attributes now = before_;
    now.runtime = slice;
    changed_ = syscall(SYS_sched_setattr, 0, &now, 0) == 0;
  }
  ~ShortSlices() {
    if (changed_) syscall(SYS_sched_setattr, 0, &before_, 0);
  }
  ShortSlices(const ShortSlices&) = delete;
  ShortSlices& operator=(const ShortSlices&) = delete;

 private:
  struct Attributes {  // the kernel's sched_attr, which C libraries do not declare
    std::uint32_t size = sizeof(Attributes), policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
  };
  Attributes before_{};
  bool readable_ = false, changed_ = false;
};
#else
struct ShortSlices {};
#endif

}  // namespace

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
  [[maybe_unused]] const ShortSlices own{};  // not inherited by the worker, which has begun
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
