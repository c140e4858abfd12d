// Runs a prepared call.
#pragma once

#include <functional>
#include <vector>

#include "attention/call_context.hpp"
#include "attention/schedule.hpp"

namespace attn::detail {

/// `memory` holds Scratch::size(call.plan) bytes. The tensors have been validated.
void run(const PreparedCall& call, const AttentionTensors& tensors, void* memory);

/// The same by the calling thread alone, which takes the items in the order of their tickets.
/// Returns how long each took.
std::vector<double> seconds_of_items(const PreparedCall& call, const AttentionTensors& tensors,
                                     void* memory);

/// Calls use(schedule) with the schedule of a run, which lies in `memory`.
void with_schedule(const PreparedCall& call, const AttentionTensors& tensors, void* memory,
                   const std::function<void(const Schedule&)>& use);

}  // namespace attn::detail
