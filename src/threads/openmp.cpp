#include "threads/openmp.hpp"

#include "threads/omp.hpp"
#include "threads/region.hpp"
#include "threads/team_size.hpp"

namespace attn::detail {
namespace {

thread_local bool openmp_is_preferred = false;

/// Offers a region to a team, of which the calling thread is number 0.
class OpenMpExecutor final : public Executor {
 public:
  void offer(int num_threads, const Task& task) override {
    const int size = granted_threads(num_threads + 1);
    if (size == 1) return;
    Region& region = Region::region_of(task);
    const Region::Generation generation = Region::generation_of(task);
    int given = 1;
#pragma omp parallel num_threads(size)
    {
      const int thread = omp_get_thread_num();
      if (thread == 0) {
        given = omp_get_num_threads();
        region.take_part_as_caller();
      } else if (region.enter(generation)) {
        region.run(thread);
        region.leave();
      }
    }
    note_team(given);
  }
};

}  // namespace

BetweenProducts::BetweenProducts(bool multiplied_by_onednn) noexcept
    : before_(openmp_is_preferred) {
  if (multiplied_by_onednn) openmp_is_preferred = true;
}

BetweenProducts::~BetweenProducts() { openmp_is_preferred = before_; }

bool prefers_openmp() noexcept { return openmp_is_preferred; }

}  // namespace attn::detail

namespace attn {

Executor& openmp_executor() {
  // It is never destroyed: other threads may be in calls when the process ends.
  static detail::OpenMpExecutor& executor = *new detail::OpenMpExecutor;
  return executor;
}

}  // namespace attn
