#include "timing.hpp"

#include <algorithm>
#include <numeric>

namespace attn::apps {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double seconds_of(const std::function<void()>& call) {
  const auto start = Clock::now();
  call();
  return seconds_since(start);
}

std::vector<double> time_calls(const std::function<void()>& call, double min_time,
                               std::size_t max_calls) {
  constexpr std::size_t min_calls = 3;
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < min_calls ||
         (seconds_since(start) < min_time && times.size() < max_calls)) {
    times.push_back(seconds_of(call));
  }
  std::sort(times.begin(), times.end());
  return times;
}

double median_of(const std::vector<double>& ascending) { return ascending[ascending.size() / 2]; }

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace attn::apps
