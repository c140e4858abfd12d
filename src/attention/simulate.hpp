// What more threads than this machine has would gain: the plan and the schedule for that many
// threads are made as for a call, one thread measures how long each item takes, and the schedule is
// replayed with these times.
//
// Left out is what threads cost each other: the time to wake them, and the caches and the memory
// that they share.
#pragma once

#include <span>

#include "attention/call_context.hpp"
#include "attention/schedule.hpp"

namespace attn::detail {

/// When the last of `num_threads` threads is done, if item n takes seconds[n] whoever does it, and
/// nothing else takes time.
double makespan(const Schedule& schedule, std::span<const double> seconds, int num_threads);

struct SimulatedCall {
  double seconds = 0;         // of num_threads threads
  double share_of_ideal = 0;  // seconds of one thread, with a plan of its own, by those of all
};

/// Items are measured for at least min_time seconds, with the medians of several runs. Throws what
/// attention() throws.
SimulatedCall simulate(const AttentionTensors& tensors, const AttentionOptions& options, Isa isa,
                       int num_threads, double min_time);

}  // namespace attn::detail
