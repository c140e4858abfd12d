// How many threads a parallel region gets. OpenMP may grant fewer than a region asks for, because
// of OMP_THREAD_LIMIT, OMP_DYNAMIC, OMP_MAX_ACTIVE_LEVELS or their functions, or because the region
// lies in another one. The library's own regions take what they get. oneDNN does not: it divides a
// product by the number that it asks for, and leaves out the shares of threads that it does not
// get. So it only asks for numbers that granted_threads() returns.
#pragma once

#include <cstdint>
#include <optional>

namespace attn::detail {

/// The threads of a call that names no number: OpenMP's number, or less where it grants less.
int default_num_threads();

/// The number that an Execution means: at most max_num_threads. It is not reduced to what OpenMP
/// grants, since a plan may run elsewhere than it was made.
int resolved_num_threads(const std::optional<int>& num_threads);

/// The number of threads, at most num_threads, that this amount of work can keep busy: waking a
/// thread costs about as much as 16,384 exponentials. `elements` counts operations as expensive as
/// an exponential; cheaper ones count in proportion.
int threads_for(std::int64_t elements, int num_threads) noexcept;

/// The number of threads, at most num_threads, of a region that the calling thread opens now while
/// a TeamSize of this number exists. 1 inside a parallel region, and in a forked process whose
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
