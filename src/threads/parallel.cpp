#include "threads/parallel.hpp"

#include "threads/openmp.hpp"
#include "threads/pool.hpp"

namespace attn::detail {

void run_team(const Threads& threads, const TeamBody& body) {
  Team team(allowed_threads(threads.count));
  Region* const region = team.size_ > 1 ? Region::acquire() : nullptr;
  if (region == nullptr) {
    team.size_ = 1;
    body.function(body.context, team, 0);
  } else {
    const Executor::Task task = region->open(team, body, team.size_);
    team.attempt([&] {
      Executor& own = prefers_openmp() ? openmp_executor() : thread_pool();
      Executor& executor = threads.executor != nullptr ? *threads.executor : own;
      executor.offer(team.size_ - 1, task);
    });
    region->take_part_as_caller();
    region->close();
    region->release();
  }
  if (team.error_) std::rethrow_exception(team.error_);
}

}  // namespace attn::detail
