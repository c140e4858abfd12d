// The library's own threads.
//
// Each worker has a mailbox, one atomic word: it is idle, is offered a number in a region
// (region.hpp), or is busy. A caller offers its region to workers that are idle, or whose offer has
// expired because that region has closed, and goes on to its own work. A worker takes the offer,
// enters the region if it is still open, and computes. No offer is ever taken back or waited for.
//
//   - A worker prefers neither callers nor numbers: the first workers that are free get the numbers
//     1, 2, ... So a thread that calls alone always meets the same worker under the same number,
//     and what that worker reads is in the cache of its processor.
//   - A worker spins for some 100 us after its work, and then sleeps. A sleeping worker is woken by
//     another one: the caller wakes two, each of which wakes two more when it runs. So a caller is
//     soon at its own work, and where many threads share few processors, those that come too late
//     wake nobody.
//   - Before a worker sleeps, it says so, and then looks at its mailbox once more. Whoever offers
//     writes to the mailbox, and then looks whether it says so. All four are sequentially
//     consistent, so one of them sees the other. The end of the pool goes the same way.
//   - Workers are started when a call finds too few. There are never more than the largest call or
//     the processors need.
//
// A child of fork() starts a pool of its own.
#pragma once

#include <attn/execution.hpp>

namespace attn::detail {

Executor& thread_pool();

}  // namespace attn::detail
