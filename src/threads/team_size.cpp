#include "threads/team_size.hpp"

#include <attn/execution.hpp>

#include <pthread.h>
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

#include "tensor/memory.hpp"
#include "threads/omp.hpp"
#include "threads/processors.hpp"
#include "threads/region.hpp"

namespace attn::detail {
namespace {

// A child of fork() has only the thread that forked. OpenMP's memory still counts on the threads of
// the parent, and GCC's runtime would wait for them forever. Whether OpenMP has started any, for
// the library or for anybody else, is not known, so that any other thread counts.
std::atomic<bool> had_threads_at_fork{false};
std::atomic<bool> lost_threads_in_fork{false};

void before_fork() {
#if __has_include(<sys/single_threaded.h>)
  had_threads_at_fork = __libc_single_threaded == 0;
#else
  had_threads_at_fork = true;
#endif
}
void after_fork_in_child() {
  if (had_threads_at_fork) lost_threads_in_fork = true;
}
[[maybe_unused]] const int fork_is_watched =
    pthread_atfork(before_fork, nullptr, after_fork_in_child);

/// The number of processors when the library was loaded, which is OpenMP's number of threads unless
/// somebody has set another.
const int processors_at_load = omp_get_num_procs();

void* wait_until_set(void* flag) {
  static_cast<std::atomic<bool>*>(flag)->wait(false);
  return nullptr;
}

/// Starts threads that exist at the same time, ends them, and returns their number, which is less
/// than `count` if the system cannot start as many. OpenMP's runtimes end the process then.
int startable_threads(int count) {
  constexpr std::size_t runtime_memory = std::size_t{1} << 20;  // more than a runtime takes
  std::array<pthread_t, max_num_threads> threads;
  std::atomic<bool> end{false};
  int started = 0;
  while (started < count && pthread_create(&threads[static_cast<std::size_t>(started)], nullptr,
                                           wait_until_set, &end) == 0) {
    ++started;
  }
  const bool enough = can_map(runtime_memory);
  end = true;
  end.notify_all();
  for (int n = 0; n < started; ++n) pthread_join(threads[static_cast<std::size_t>(n)], nullptr);
  return enough ? started : 0;
}

/// The largest number of threads that a region of this thread has asked for, and how many it got.
struct Regions {
  int asked = 1;
  int granted = 1;
};
thread_local Regions known;
/// How many threads this process was once able to start.
std::atomic<int> once_started{1};

/// Finds out how many threads a region gets by starting them.
int open_region(int num_threads) {
  if (num_threads > once_started || address_space_is_limited()) {
    const int startable = startable_threads(num_threads - known.granted);
    num_threads = std::min(num_threads, known.granted + startable);
    if (num_threads <= 1) return 1;
    once_started = std::max<int>(once_started, num_threads);
  }
  int granted = 1;
  const TeamSize size(num_threads);
#pragma omp parallel num_threads(num_threads)
#pragma omp single
  granted = omp_get_num_threads();
  return granted;
}

}  // namespace

int allowed_threads(int num_threads) {
  if (num_threads <= 1 || inside_region()) return 1;
  enter_openmp();
  if (omp_in_parallel() != 0 || omp_get_max_active_levels() < 1) return 1;
  return std::max(1, std::min({num_threads, omp_get_thread_limit(), max_num_threads}));
}

int default_num_threads() {
  enter_openmp();
  const int openmps = omp_get_max_threads();
  const bool set = openmps != processors_at_load;
  return allowed_threads(set ? openmps : std::min(openmps, available_processors()));
}

int resolved_num_threads(const std::optional<int>& num_threads) {
  return num_threads ? std::min(*num_threads, max_num_threads) : default_num_threads();
}

Threads resolved_threads(const Execution& execution) {
  return {resolved_num_threads(execution.num_threads), execution.executor};
}

Threads threads_for(std::int64_t elements, const Threads& threads) noexcept {
  constexpr std::int64_t elements_per_thread = 16384;
  return threads.at_most(elements / elements_per_thread);
}

int granted_threads(int num_threads) {
  if (lost_threads_in_fork.load(std::memory_order_relaxed)) return 1;
  const int allowed = allowed_threads(num_threads);
  if (allowed > known.asked) {
    const int granted = open_region(allowed);
    known = {allowed, granted};
  }
  return std::min(allowed, known.granted);
}

void note_team(int size) noexcept {
  if (address_space_is_limited()) known = {size, size};
}

TeamSize::TeamSize(int num_threads)
    : num_threads_before_(omp_get_max_threads()), dynamic_before_(omp_get_dynamic() != 0) {
  omp_set_num_threads(num_threads);
  if (dynamic_before_) omp_set_dynamic(0);
}

TeamSize::~TeamSize() {
  omp_set_num_threads(num_threads_before_);
  if (dynamic_before_) omp_set_dynamic(1);
  note_team(1);
}

}  // namespace attn::detail
