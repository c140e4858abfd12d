#include "attention/simulate.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "attention/prepare.hpp"
#include "attention/run.hpp"
#include "attention/workspace.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

/// The threads by the time at which they are free, the earliest first.
class Clocks {
 public:
  explicit Clocks(int num_threads) {
    for (int thread = 0; thread < num_threads; ++thread) free_.emplace(0, thread);
  }
  /// The thread that is free first.
  std::pair<double, int> take() {
    const std::pair<double, int> first = free_.top();
    free_.pop();
    return first;
  }
  void put_back(double time, int thread) {
    free_.emplace(time, thread);
    last_ = std::max(last_, time);
  }
  double last() const { return last_; }

 private:
  std::priority_queue<std::pair<double, int>, std::vector<std::pair<double, int>>, std::greater<>>
      free_;
  double last_ = 0;
};

/// Threads take items by ticket and wait for those that an item needs, which have been taken.
double makespan_in_order(const Schedule& schedule, std::span<const double> seconds,
                         int num_threads) {
  const auto heads = static_cast<std::size_t>(schedule.num_heads());
  std::vector<double> packed(heads), computed(heads);  // when the last item so far was done
  Clocks clocks(num_threads);
  for (std::int64_t ticket = 0; ticket < schedule.size(); ++ticket) {
    const WorkItem item = schedule.item(ticket);
    const auto head = static_cast<std::size_t>(item.head);
    const bool packs = item.kind == WorkItem::Kind::pack;
    const std::int64_t slot_before = schedule.head(item.head).slot_before;
    const double needed = !packs             ? packed[head]
                          : slot_before >= 0 ? computed[static_cast<std::size_t>(slot_before)]
                                             : 0;
    const auto [free, thread] = clocks.take();
    const double done = std::max(free, needed) + seconds[static_cast<std::size_t>(ticket)];
    double& last = packs ? packed[head] : computed[head];
    last = std::max(last, done);
    clocks.put_back(done, thread);
  }
  return clocks.last();
}

/// A thread takes the items of its own share first.
double makespan_in_shares(const Schedule& schedule, std::span<const double> seconds,
                          int num_threads) {
  WorkStealingRange range(schedule.size(), num_threads);
  Clocks clocks(num_threads);
  for (std::int64_t left = schedule.size(); left > 0; --left) {
    const auto [free, thread] = clocks.take();
    const std::int64_t ticket = *range.take(thread);
    clocks.put_back(free + seconds[static_cast<std::size_t>(ticket)], thread);
  }
  return clocks.last();
}

/// The medians of several runs by one thread.
struct MeasuredItems {
  PreparedCall call;
  Workspace workspace;
  std::vector<double> seconds;

  MeasuredItems(const AttentionTensors& tensors, const AttentionOptions& options, Isa isa,
                int num_threads, double min_time)
      : call(prepare(tensors, options, {.num_threads = num_threads, .isa = isa})),
        workspace(Scratch::size(call.plan)) {
    using Clock = std::chrono::steady_clock;
    constexpr int least_runs = 3;
    std::vector<std::vector<double>> runs;
    const Clock::time_point begin = Clock::now();
    const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
    while (runs.size() < least_runs || passed() < min_time)
      runs.push_back(seconds_of_items(call, tensors, workspace.data()));
    seconds.resize(runs[0].size());
    for (std::size_t n = 0; n < seconds.size(); ++n) {
      std::vector<double> of_item;
      of_item.reserve(runs.size());
      for (const std::vector<double>& run : runs) of_item.push_back(run[n]);
      std::nth_element(of_item.begin(), of_item.begin() + of_item.size() / 2, of_item.end());
      seconds[n] = of_item[of_item.size() / 2];
    }
  }
};

}  // namespace

double makespan(const Schedule& schedule, std::span<const double> seconds, int num_threads) {
  return schedule.in_any_order() ? makespan_in_shares(schedule, seconds, num_threads)
                                 : makespan_in_order(schedule, seconds, num_threads);
}

SimulatedCall simulate(const AttentionTensors& tensors, const AttentionOptions& options, Isa isa,
                       int num_threads, double min_time) {
  const MeasuredItems one(tensors, options, isa, 1, min_time);
  MeasuredItems all(tensors, options, isa, num_threads, min_time);
  SimulatedCall call;
  with_schedule(all.call, tensors, all.workspace.data(), [&](const Schedule& schedule) {
    call.seconds = makespan(schedule, all.seconds, all.call.plan.num_threads);
  });
  double alone = 0;
  for (const double seconds : one.seconds) alone += seconds;
  call.share_of_ideal = call.seconds > 0 ? alone / num_threads / call.seconds : 1;
  return call;
}

}  // namespace attn::detail
