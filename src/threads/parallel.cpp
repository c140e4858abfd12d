#include "threads/parallel.hpp"

#include <omp.h>

namespace attn::detail {

int default_num_threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

void Team::barrier() noexcept {
  if (size_ == 1) return;
#pragma omp barrier
}

void run_team(Team& team, void (*body)(void*, Team&, int), void* context) {
  if (team.size_ <= 1 || omp_in_parallel()) {
    // No region is opened: inside one of the caller, a barrier would wait for the caller's threads.
    team.size_ = 1;
    body(context, team, 0);
  } else {
#pragma omp parallel num_threads(team.size_)
    {
#pragma omp single
      team.size_ = omp_get_num_threads();
      body(context, team, omp_get_thread_num());
    }
  }
  if (team.error_) std::rethrow_exception(team.error_);
}

}  // namespace attn::detail
