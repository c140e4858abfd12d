// Threads of the programs themselves. Those of the library are its own.
#pragma once

#include <functional>

namespace attn::apps {

/// Runs work(thread, team) at the same time on `team` threads, of which the caller is number 0, and
/// returns `team`. It is num_threads, or less if the system starts no more threads. After all have
/// ended, rethrows the first exception that left `work`.
int run_on_threads(int num_threads, const std::function<void(int thread, int team)>& work);

}  // namespace attn::apps
