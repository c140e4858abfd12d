#include "torch_threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

#include "threads/region.hpp"

namespace attn::python {
namespace {

std::atomic<bool> forked{false};
[[maybe_unused]] const int fork_is_watched =
    pthread_atfork(nullptr, nullptr, [] { forked = true; });

/// A parallel region of an OpenMP runtime that is loaded already, by the function that compilers
/// call for one. GCC's runtime has it, and LLVM's and Intel's have it for GCC's sake.
class LoadedOpenMp final : public Executor {
 public:
  using Parallel = void (*)(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);
  using MaxThreads = int (*)();

  LoadedOpenMp(Parallel parallel, MaxThreads max_threads) noexcept
      : parallel_(parallel), max_threads_(max_threads) {}

  /// A team of PyTorch's size: a runtime ends threads that a smaller one does not need. Those who
  /// find no work return at once. Plans keep the executor, also into a forked process.
  void offer(int num_threads, const Task& task) override {
    if (forked) return;
    const int size = std::max(num_threads + 1, max_threads_());
    Call call{task, std::this_thread::get_id()};
    parallel_(
        [](void* data) {
          const Call& shared = *static_cast<const Call*>(data);
          if (std::this_thread::get_id() == shared.caller)
            detail::Region::region_of(shared.task).take_part_as_caller();
          else
            shared.task();
        },
        &call, static_cast<unsigned>(size), 0);
  }

 private:
  /// The calling thread is one of the team, and takes part as such.
  struct Call {
    Task task;
    std::thread::id caller;
  };

  Parallel parallel_;
  MaxThreads max_threads_;
};

/// Looks into the library of PyTorch and those that it needs.
Executor* find() noexcept {
  void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return nullptr;
  const auto parallel = reinterpret_cast<LoadedOpenMp::Parallel>(dlsym(torch, "GOMP_parallel"));
  const auto max_threads =
      reinterpret_cast<LoadedOpenMp::MaxThreads>(dlsym(torch, "omp_get_max_threads"));
  if (parallel == nullptr || max_threads == nullptr) return nullptr;
  return new (std::nothrow) LoadedOpenMp(parallel, max_threads);  // as long as the process
}

}  // namespace

Executor* torch_threads() noexcept {
  static Executor* const threads = find();
  return forked ? nullptr : threads;
}

}  // namespace attn::python
