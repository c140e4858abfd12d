#include "iterate/execution.hpp"

#include "kernels/select.hpp"
#include "tensor/checks.hpp"

namespace attn::detail {

ResolvedExecution resolve(const Execution& execution) {
  if (execution.num_threads) require_positive("num_threads", *execution.num_threads);
  return {kernels::kernels_for(execution.isa.value_or(default_isa())), resolved_threads(execution)};
}

}  // namespace attn::detail
