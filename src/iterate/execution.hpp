// How a call is executed: its instruction set's kernels and its threads.
#pragma once

#include <attn/execution.hpp>

#include <cstdint>

#include "kernels/kernels.hpp"

namespace attn::detail {

/// An Execution whose defaults are filled in.
struct ResolvedExecution {
  const kernels::Kernels& kernels;
  int num_threads;
};

/// Throws Error for an ISA that this machine or build lacks and for less than one thread.
ResolvedExecution resolve(const Execution& execution);

/// The number of threads, at most num_threads, that this amount of work can keep busy: waking a
/// thread costs about as much as 16,384 exponentials. `elements` counts operations as expensive as
/// an exponential; cheaper ones count in proportion.
int threads_for(std::int64_t elements, int num_threads) noexcept;

}  // namespace attn::detail
