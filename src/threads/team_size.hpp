// How many threads a call means, and how many OpenMP surely gives. OpenMP may grant fewer than a
// region asks for, because of OMP_THREAD_LIMIT, OMP_DYNAMIC, OMP_MAX_ACTIVE_LEVELS or their
// functions, or because the region lies in another one. The library's own calls take what they get.
// oneDNN does not: it divides a product by the number that it asks for, and leaves out the shares
// of threads that it does not get. So it only asks for numbers that granted_threads() returns.
#pragma once

#include <attn/execution.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace attn::detail {

/// Threads that a call may run on.
struct Threads {
  int count = 1;                 // at most so many, of which the calling thread is one
  Executor* executor = nullptr;  // whose the others are; null: the default

  /// No more than the pieces of work.
  Threads at_most(std::int64_t pieces) const noexcept {
    return {static_cast<int>(std::clamp<std::int64_t>(pieces, 1, count)), executor};
  }
};

/// What Execution says about the threads of a call that names no number.
int default_num_threads();

/// The number that an Execution means: at most max_num_threads. It is not reduced to what
/// allowed_threads() says, since a plan may run elsewhere than it was made.
int resolved_num_threads(const std::optional<int>& num_threads);
Threads resolved_threads(const Execution& execution);

/// The number of threads, at most num_threads, that a call of this thread may run on now: 1 inside
/// another call or a parallel region of OpenMP, and never more than OpenMP's settings allow.
int allowed_threads(int num_threads);

/// The threads, of these, that this amount of work can keep busy: waking a
/// thread costs about as much as 16,384 exponentials. `elements` counts operations as expensive as
/// an exponential; cheaper ones count in proportion.
Threads threads_for(std::int64_t elements, const Threads& threads) noexcept;

/// The number of threads, at most num_threads, of a region that the calling thread opens now while
/// a TeamSize of this number exists. 1 where allowed_threads() is, and in a forked process whose
/// parent had other threads. The first call for a number starts these threads, which are then
/// OpenMP's; where the system cannot start as many, the number is less.
int granted_threads(int num_threads);

/// Says that the last region of the calling thread had `size` threads; 1 if that is not known.
/// Where the address space is limited, what was granted before is then checked again: a runtime
/// ends the threads that a smaller region does not need, and there may be no room for new ones.
void note_team(int size) noexcept;

/// While it exists, regions that the calling thread opens ask for num_threads threads, and OpenMP
/// does not adjust this number. The destructor restores both.
class TeamSize {
 public:
  explicit TeamSize(int num_threads);
  ~TeamSize();
  TeamSize(const TeamSize&) = delete;
  TeamSize& operator=(const TeamSize&) = delete;

 private:
  int num_threads_before_;
  bool dynamic_before_;
};

}  // namespace attn::detail
