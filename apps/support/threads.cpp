#include "threads.hpp"

#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace attn::apps {
namespace {

/// Runs work in a thread, which an exception must not leave, and keeps the first exception.
class Guarded {
 public:
  explicit Guarded(const std::function<void(int, int)>& work) : work_(work) {}

  void run(int thread, int team) noexcept {
    try {
      work_(thread, team);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::function<void(int, int)>& work_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace

int run_on_threads(int num_threads, const std::function<void(int thread, int team)>& work) {
  Guarded guarded(work);
  std::atomic<int> team{0};  // 0 until all threads have been started
  const auto wait_and_run = [&](int thread) {
    team.wait(0);
    guarded.run(thread, team);
  };
  {
    std::vector<std::jthread> others;
    try {
      others.reserve(static_cast<std::size_t>(num_threads));
      for (int thread = 1; thread < num_threads; ++thread)
        others.emplace_back(wait_and_run, thread);
    } catch (const std::system_error&) {
      // The system has no room for more threads. Those that were started do the work.
    } catch (const std::bad_alloc&) {
    }
    team = static_cast<int>(others.size()) + 1;
    team.notify_all();
    guarded.run(0, team);
  }
  guarded.rethrow();
  return team;
}

}  // namespace attn::apps
