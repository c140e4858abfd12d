// How a call is executed: its instruction set's kernels and its threads.
#pragma once

#include <attn/execution.hpp>

#include "kernels/kernels.hpp"
#include "threads/team_size.hpp"  // IWYU pragma: export

namespace attn::detail {

/// An Execution whose defaults are filled in.
struct ResolvedExecution {
  const kernels::Kernels& kernels;
  Threads threads;
};

/// Throws Error for an ISA that this machine or build lacks and for less than one thread.
ResolvedExecution resolve(const Execution& execution);

}  // namespace attn::detail
