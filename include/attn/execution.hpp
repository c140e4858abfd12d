// How a function runs: the number of threads, whose threads they are, and the instruction set.
#pragma once

#include <attn/export.hpp>
#include <attn/isa.hpp>

#include <cstdint>
#include <optional>

namespace attn {

namespace detail {
class Region;
}

/// No call runs on more threads than this. A larger num_threads, or OMP_NUM_THREADS, means this.
inline constexpr int max_num_threads = 1024;

/// Whose threads help the thread that calls a function of the library. Derive from it to let the
/// threads of an engine, TBB or any other pool compute:
///
///     class OnMyPool final : public attn::Executor {
///       void offer(int num_threads, const Task& task) override {
///         for (int n = 0; n < num_threads; ++n) my_pool.submit(task);
///       }
///     };
///
/// The calling thread always computes, too. Work is taken by whoever is there, and when none is
/// left the call waits only for those who are computing. So a task that no thread has begun keeps
/// nobody waiting, and whether and when tasks run changes no bits.
class ATTN_API Executor {
 public:
  /// What a further thread calls to take part in a call. It is copied freely, allocates nothing,
  /// and never throws.
  class ATTN_API Task {
   public:
    /// Computes until no work is left. It returns at once if there is none, if the call has ended,
    /// however long ago, or if enough threads take part already.
    void operator()() const noexcept;

   private:
    friend class detail::Region;
    ATTN_HIDDEN Task(detail::Region& region, std::uint64_t generation) noexcept
        : region_(&region), generation_(generation) {}

    detail::Region* region_;
    std::uint64_t generation_;  // which of the calls that use the region one after another
  };

  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor();

  /// Asks for up to num_threads >= 1 other threads, each of which calls the task, now or later.
  /// There may be fewer, or none. It may return at once, or after these threads have returned from
  /// the task; the calling thread may be one of them. Threads that call the library at the same
  /// time call this function at the same time. What it throws, the call throws.
  virtual void offer(int num_threads, const Task& task) = 0;
};

/// OpenMP's threads. All of the team are waited for, those that the system does not run included,
/// and they spin for a while after each call, in case there is another. Choose it where a program
/// divides its own work by OpenMP, too, and calls the library in between: these threads then do
/// both, where the library's own would compete with those that spin. A build without OpenMP
/// (ATTN_WITH_OPENMP=OFF) has none, and the calling thread computes alone.
ATTN_API Executor& openmp_executor();

/// The number of threads does not change a result, nor does it matter whose they are: it has the
/// same bits for any of them. Results of different ISAs differ in the last bits.
///
/// By default, the library's own threads help. The first call starts as many as it needs, and they
/// end with the process. They sleep soon after a call has ended, run on the processors that their
/// caller may run on, block all signals, and are called attn-1, attn-2, and so on. A thread that
/// calls while others do gets those that are free.
///
/// A call runs on fewer threads than num_threads where it has less work, where fewer are free,
/// where the system cannot start as many, and where OpenMP's settings forbid it (OMP_THREAD_LIMIT,
/// OMP_MAX_ACTIVE_LEVELS). It runs on one thread inside a parallel region of the caller, and inside
/// a score_mod or mask_mod of a call that runs on several.
///
/// oneDNN's products always run on OpenMP's threads: those of the unfused baseline, and projections
/// of 8 or more tokens where oneDNN has a fast kernel for them. They run on one thread in a process
/// that was made by fork() when its parent had started another thread: OpenMP's threads are not
/// copied to such a process, and GCC's runtime would wait for them forever. The library's own are
/// started again. As always with threads, fork() must not happen while another thread is in a call.
struct Execution {
  /// An upper limit, at least 1. Default: OpenMP's number of threads, if OMP_NUM_THREADS or
  /// omp_set_num_threads() has set one; else the number of processors that the calling thread may
  /// run on, or the quota of its control group (cpu.max) in whole processors, if that is less.
  std::optional<int> num_threads{};
  /// Default: default_isa(). An ISA that this processor lacks is refused with Error(unsupported).
  std::optional<Isa> isa{};
  /// Null: the library's own threads. Plans and layers keep the pointer.
  Executor* executor = nullptr;
};

}  // namespace attn
