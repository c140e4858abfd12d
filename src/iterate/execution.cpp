#include "iterate/execution.hpp"

#include <algorithm>

#include "kernels/select.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

ResolvedExecution resolve(const Execution& execution) {
  if (execution.num_threads) require_positive("num_threads", *execution.num_threads);
  const int threads = default_num_threads();
  return {kernels::kernels_for(execution.isa.value_or(default_isa())),
          execution.num_threads.value_or(threads)};
}

int threads_for(std::int64_t elements, int num_threads) noexcept {
  constexpr std::int64_t elements_per_thread = 16384;
  return static_cast<int>(std::clamp<std::int64_t>(elements / elements_per_thread, 1, num_threads));
}

}  // namespace attn::detail
