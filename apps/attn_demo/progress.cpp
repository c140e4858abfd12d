#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace attn::demo {
namespace {

constexpr const char* erase_line = "\r\033[K";

}  // namespace

Progress::Progress(std::string label, double total) : label_(std::move(label)), total_(total) {}

Progress::~Progress() {
  if (shown_) std::fputs(erase_line, stderr);
}

bool Progress::visible() { return isatty(STDERR_FILENO) != 0; }

void Progress::advance(double amount) {
  const double done = done_.fetch_add(amount, std::memory_order_relaxed) + amount;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const Clock::time_point now = Clock::now();
  if (now >= next_) show(now, done);
}

void Progress::show(Clock::time_point now, double done) {
  const double spent = std::chrono::duration<double>(now - start_).count();
  const double left = spent * std::max(0.0, total_ - done) / done;
  fmt::print(stderr, "{}{}: {:.0f} %, {:.0f} s left", erase_line, label_, std::min(100.0, 100 * done / total_), left);
  std::fflush(stderr);
  shown_ = true;
  next_ = now + std::chrono::milliseconds(200);
}

}  // namespace attn::demo
