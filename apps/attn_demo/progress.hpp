// How far long work has come, on a terminal and only there.
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>

namespace attn::demo {

/// One line on standard error, shown once the work has taken a while and erased at the end.
class Progress {
 public:
  Progress(std::string label, double total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Whether anyone can see it.
  static bool visible();
  /// By any thread.
  void advance(double amount);

 private:
  using Clock = std::chrono::steady_clock;
  void show(Clock::time_point now, double done);

  std::string label_;
  double total_;
  std::atomic<double> done_{0};
  Clock::time_point start_ = Clock::now();
  std::mutex mutex_;  // of what follows
  Clock::time_point next_ = start_ + std::chrono::milliseconds(500);
  bool shown_ = false;
};

}  // namespace attn::demo
