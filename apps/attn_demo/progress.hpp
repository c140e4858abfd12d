// How far long work has come, on a terminal and only there.
#pragma once

#include <attn/attention.hpp>

#include <atomic>
#include <string>
#include <thread>

#include "apps/support/timing.hpp"

namespace attn::apps::demo {

/// One line on standard error while this object lives, shown once that has lasted a while and
/// erased at the end.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// For the reference, which is slow: options with a mask that hides nothing and counts the keys
  /// that it is asked about, so that the line tells how much is done. Unchanged where nobody sees
  /// it. This object must outlive them.
  AttentionOptions counted(const AttentionTensors& tensors, AttentionOptions options);

 private:
  void show_until(const std::stop_token& stop);
  std::string line() const;

  std::string label_;
  std::atomic<double> total_{0};  // 0: unknown
  std::atomic<double> done_{0};
  Clock::time_point start_ = Clock::now();
  std::jthread display_;  // not there without a terminal
};

}  // namespace attn::apps::demo
