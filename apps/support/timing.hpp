// The duration of calls in wall-clock time.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

namespace attn::apps {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start);

/// The duration of one call in seconds.
double seconds_of(const std::function<void()>& call);

/// The durations of several calls in seconds, in ascending order. Calls are repeated for `min_time`
/// seconds: at least 3 times, at most `max_calls` times.
std::vector<double> time_calls(const std::function<void()>& call, double min_time,
                               std::size_t max_calls = std::numeric_limits<std::size_t>::max());

/// The median of durations in ascending order.
double median_of(const std::vector<double>& ascending);
double mean_of(const std::vector<double>& values);

}  // namespace attn::apps
