// How a function runs: the number of threads and the instruction set.
#pragma once

#include <attn/isa.hpp>

#include <optional>

namespace attn {

/// No call runs on more threads than this. A larger num_threads, or OMP_NUM_THREADS, means this.
inline constexpr int max_num_threads = 1024;

/// The number of threads does not change a result: it has the same bits for any of them. Results of
/// different ISAs differ in the last bits.
///
/// A call runs on fewer threads than num_threads, and gives the same bits, where it has less work
/// or where OpenMP grants fewer (OMP_THREAD_LIMIT, OMP_DYNAMIC, OMP_MAX_ACTIVE_LEVELS and their
/// functions), and where the system cannot start as many. It runs on one thread
///   - inside a parallel region of the caller;
///   - in a process that was made by fork() when its parent had started another thread. OpenMP's
///     threads are not copied to such a process, and GCC's runtime would wait for them forever. As
///     always with threads, fork() must not happen while another thread is in a call.
struct Execution {
  /// An upper limit, at least 1. Default: OpenMP's number of threads.
  std::optional<int> num_threads{};
  /// Default: default_isa(). An ISA that this processor lacks is refused with Error(unsupported).
  std::optional<Isa> isa{};
};

}  // namespace attn
