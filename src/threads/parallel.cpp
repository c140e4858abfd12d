#include "threads/parallel.hpp"

#include <omp.h>

namespace attn::detail {

void Team::barrier() noexcept {
  if (size_ == 1) return;
#pragma omp barrier
}

void run_team(Team& team, void (*body)(void*, Team&, int), void* context) {
  team.size_ = granted_threads(team.size_);
  if (team.size_ == 1) {
    // No region is opened: inside one of the caller, a barrier would wait for the caller's threads.
    body(context, team, 0);
  } else {
#pragma omp parallel num_threads(team.size_)
    {
#pragma omp single
      team.size_ = omp_get_num_threads();
      body(context, team, omp_get_thread_num());
    }
    note_team(team.size_);
  }
  if (team.error_) std::rethrow_exception(team.error_);
}

}  // namespace attn::detail
