#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>

#include "apps/support/program.hpp"

namespace attn::apps::demo {
namespace {

constexpr const char* erase_line = "\r\033[K";

}  // namespace

Progress::Progress(std::string label) : label_(std::move(label)) {
  if (isatty(STDERR_FILENO) == 0) return;
  try {
    display_ = std::jthread([this](const std::stop_token& stop) { show_until(stop); });
  } catch (const std::system_error&) {
    // The system has no room for one more thread, and the computation does not need this one.
  }
}

Progress::~Progress() {
  if (!display_.joinable()) return;
  display_.request_stop();
  display_.join();
}

AttentionOptions Progress::counted(const AttentionTensors& tensors, AttentionOptions options) {
  if (!display_.joinable()) return options;
  const Dims& q = tensors.q.shape;
  total_ = static_cast<double>(q[0] * q[1] * q[2]) * static_cast<double>(tensors.k.shape[2]);
  options.mask_mod = [this](const KeyRun& run, bool* visible) {
    std::fill_n(visible, run.count, true);
    done_.fetch_add(static_cast<double>(run.count), std::memory_order_relaxed);
  };
  return options;
}

void Progress::show_until(const std::stop_token& stop) try {
  using namespace std::chrono_literals;
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  const auto stops_within = [&](Clock::duration time) {
    return stopped.wait_for(lock, stop, time, [&] { return stop.stop_requested(); });
  };
  if (stops_within(700ms)) return;
  do {
    print_notice(erase_line + line());
  } while (!stops_within(200ms));
  print_notice(erase_line);
} catch (const std::bad_alloc&) {
  // The computation will report it if it does not get along without this memory either.
}

std::string Progress::line() const {
  const double spent = seconds_since(start_);
  const double total = total_, done = done_;
  if (total == 0 || done == 0) return fmt::format("{}: {:.0f} s", label_, spent);
  return fmt::format("{}: {:.0f} %, {:.0f} s left", label_, std::min(100.0, 100 * done / total),
                     spent * std::max(0.0, total / done - 1));
}

}  // namespace attn::apps::demo
