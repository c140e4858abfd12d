// The progress of long computations, shown on terminals only.
#pragma once

#include <attn/attention.hpp>

#include <atomic>
#include <string>
#include <thread>

#include "apps/support/timing.hpp"

namespace attn::apps::demo {

/// Shows one line on standard error while this object exists. The line appears after a short time
/// and is erased at the end.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Options for the reference, which is slow. They have a mask that hides nothing and counts the
  /// keys that it is called for, so that the line can show how much is done. Without a terminal
  /// they are unchanged. This object must outlive them.
  AttentionOptions counted(const AttentionTensors& tensors, AttentionOptions options);

 private:
  void show_until(const std::stop_token& stop);
  std::string line() const;

  std::string label_;
  std::atomic<double> total_{0};  // 0 if unknown
  std::atomic<double> done_{0};
  Clock::time_point start_ = Clock::now();
  std::jthread display_;  // not running without a terminal
};

}  // namespace attn::apps::demo
