// The library's own threads, and executors: all work is done once, whoever comes; nobody is waited
// for who has not begun.
#include <attn/execution.hpp>

#include <doctest/doctest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "threads/parallel.hpp"
#include "threads/pool.hpp"
#include "threads/processors.hpp"
#include "threads/region.hpp"

using namespace attn;
using namespace attn::detail;
using namespace std::chrono_literals;

namespace {

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ATTN_THREAD_SANITIZER
#endif
#endif
#if defined(ATTN_THREAD_SANITIZER) || defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#else
constexpr bool thread_sanitizer = false;
#endif

/// Keeps all tasks, and runs none.
class Keeping final : public Executor {
 public:
  void offer(int num_threads, const Task& task) override {
    for (int n = 0; n < num_threads; ++n) tasks.push_back(task);
  }
  std::vector<Task> tasks;
};

/// Runs a loop of small items and checks that each was processed once, with a number of its own for
/// each thread. Returns how many threads came.
int check_loop(const Threads& threads, std::int64_t count = 200) {
  std::vector<std::atomic<int>> times(static_cast<std::size_t>(count));
  std::vector<std::atomic<int>> inside(static_cast<std::size_t>(threads.count));
  std::vector<int> came(static_cast<std::size_t>(threads.count));
  std::atomic<bool> shared{false};
  parallel_for(threads, count, [&](std::int64_t index, int thread) {
    const auto number = static_cast<std::size_t>(thread);
    if (inside[number]++ != 0) shared = true;
    came[number] = 1;
    ++times[static_cast<std::size_t>(index)];
    --inside[number];
  });
  CHECK_FALSE(shared);
  CHECK(std::all_of(times.begin(), times.end(), [](const auto& n) { return n == 1; }));
  return static_cast<int>(std::count(came.begin(), came.end(), 1));
}

void spend(std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

/// Calls with work for all, until as many threads as asked for have come to the same one.
bool all_come(const Threads& threads) {
  for (int attempt = 0; attempt < 2000; ++attempt) {
    std::atomic<int> came{0};
    parallel(threads, [&](Team&, int) {
      ++came;
      const auto end = std::chrono::steady_clock::now() + 10ms;
      while (came < threads.count && std::chrono::steady_clock::now() < end)
        std::this_thread::yield();
    });
    if (came == threads.count) return true;
  }
  return false;
}

/// Runs f in another thread, which may change its settings.
template <class F>
void in_thread(F&& f) {
  std::thread(std::forward<F>(f)).join();
}

cpu_set_t processors_of_this_thread() {
  cpu_set_t set;
  REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
  return set;
}

/// The first processor of this thread, alone.
cpu_set_t one_processor() {
  const cpu_set_t all = processors_of_this_thread();
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int n = 0; n < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++n) {
    if (CPU_ISSET(n, &all)) CPU_SET(n, &one);
  }
  return one;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace

// It comes first, since the child of a process in which OpenMP has threads cannot end OpenMP. With
// the thread sanitizer it cannot at all: what LLVM's OpenMP tells the sanitizer, it frees at the
// end of the process, when other threads still use it.
TEST_CASE("The process ends while threads compute" * doctest::skip(thread_sanitizer)) {
  for (const bool from_call : {false, true}) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      std::thread([] {
        while (true) parallel_for(Threads{3}, 100, [](std::int64_t) { spend(20us); });
      }).detach();
      std::this_thread::sleep_for(30ms);
      if (!from_call) std::exit(7);
      parallel_for(Threads{2}, 10, [](std::int64_t index) {
        if (index == 9) std::exit(7);
      });
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
  }
}

TEST_CASE("Loops of any size, on any number of threads") {
  for (const int threads : {1, 2, 3, 8, 70}) {
    for (const std::int64_t count : {0, 1, 2, 63, 1000}) {
      CAPTURE(threads);
      CAPTURE(count);
      CHECK(check_loop({threads}, count) <= threads);
    }
  }
}

TEST_CASE("The library's threads come, and have names") {
  if (allowed_threads(4) < 4) return;
  CHECK(all_come({2}));
  CHECK(all_come({4}));
  std::array<std::string, 4> names;
  std::atomic<int> came{0};
  parallel(Threads{4}, [&](Team&, int thread) {
    ++came;
    std::array<char, 16> name{};
    pthread_getname_np(pthread_self(), name.data(), name.size());
    if (thread > 0) names[static_cast<std::size_t>(thread)] = name.data();
    while (came < 2) std::this_thread::yield();
  });
  CHECK(std::any_of(names.begin(), names.end(),
                    [](const std::string& name) { return name.starts_with("attn-"); }));
}

TEST_CASE("Far more threads than processors") {
  const auto begin = std::chrono::steady_clock::now();
  std::int64_t sum = 0;
  for (int call = 0; call < 10'000; ++call) {
    std::atomic<std::int64_t> part{0};
    parallel_for(Threads{64}, 64, [&](std::int64_t index) { part += index; });
    sum += part;
  }
  CHECK(sum == 10'000 * 63 * 32);
  CHECK(std::chrono::steady_clock::now() - begin < 60s);
}

TEST_CASE("Many callers at once") {
  std::vector<std::thread> callers;
  std::atomic<int> most{0};
  for (int caller = 0; caller < 80; ++caller) {  // more than there are regions
    callers.emplace_back([&, caller] {
      for (int call = 0; call < 30; ++call) {
        const int came = check_loop({1 + (caller + call) % 5}, 50);
        for (int before = most; before < came && !most.compare_exchange_weak(before, came);) {
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(most <= 5);
}

TEST_CASE("A call inside a call runs on its thread alone") {
  const bool several = allowed_threads(3) > 1;
  std::atomic<int> calls{0}, wrong{0};
  parallel_for(Threads{3}, 30, [&](std::int64_t) {
    if (several) CHECK(inside_region());
    const std::thread::id outer = std::this_thread::get_id();
    parallel(Threads{4}, [&](Team& team, int thread) {
      ++calls;
      if (team.size() != 1 || thread != 0 || std::this_thread::get_id() != outer) ++wrong;
    });
  });
  CHECK(wrong == 0);
  CHECK((calls == 30 || !several));
  CHECK_FALSE(inside_region());
}

TEST_CASE("Exceptions of any thread reach the caller, and later calls are as before") {
  Keeping keeping;
  for (Executor* const executor :
       {static_cast<Executor*>(nullptr), &openmp_executor(), static_cast<Executor*>(&keeping)}) {
    for (const int at : {0, 50, 99}) {
      const auto throwing = [&](std::int64_t index) {
        if (index == at) throw at;
      };
      CHECK_THROWS_AS(parallel_for({4, executor}, 100, throwing), int);
      check_loop({4, executor});
    }
  }
}

TEST_CASE(
    "Work is done without the threads of an executor, and tasks that come too late do nothing") {
  Keeping keeping;
  for (int call = 0; call < 100; ++call) CHECK(check_loop({5, &keeping}) == 1);
  if (allowed_threads(5) == 5) CHECK(keeping.tasks.size() == 400);
  // Their regions are open again for other calls meanwhile.
  std::atomic<bool> end{false};
  std::thread late([&] {
    while (!end) {
      for (const Executor::Task& task : keeping.tasks) task();
    }
  });
  for (int call = 0; call < 300; ++call) check_loop({4});
  end = true;
  late.join();
}

TEST_CASE(
    "A task may be called more often than asked for, by any thread, and inside another call") {
  class Eager final : public Executor {
   public:
    void offer(int num_threads, const Task& task) override {
      for (int n = 0; n < 3 * num_threads; ++n) threads_.emplace_back([task] { task(); });
      task();
      parallel(Threads{2}, [&](Team&, int) { task(); });
    }
    ~Eager() override { join(); }
    void join() {
      for (std::thread& thread : threads_) thread.join();
      threads_.clear();
    }

   private:
    std::vector<std::thread> threads_;
  };
  Eager eager;
  for (int call = 0; call < 50; ++call) {
    check_loop({4, &eager});
    eager.join();
  }
}

TEST_CASE("A caller that is alone does not wait for threads that have not begun") {
  if (allowed_threads(2) < 2) return;
  class Slow final : public Executor {
   public:
    void offer(int, const Task& task) override {
      thread_ = std::thread([task, this] {
        while (!end_) std::this_thread::sleep_for(1ms);
        task();
      });
    }
    ~Slow() override {
      end_ = true;
      thread_.join();
    }

   private:
    std::atomic<bool> end_{false};
    std::thread thread_;
  };
  Slow slow;
  CHECK(check_loop({2, &slow}) == 1);
}

TEST_CASE("Threads sleep when there is nothing to do") {
  check_loop({8});
  std::this_thread::sleep_for(20ms);
  const double before = cpu_seconds();
  std::this_thread::sleep_for(200ms);
  CHECK(cpu_seconds() - before < 0.1);
}

TEST_CASE("A caller that waits for a thread that computes sleeps, too") {
  if (!all_come({2})) return;
  const double before = cpu_seconds();
  const auto begin = std::chrono::steady_clock::now();
  std::atomic<int> came{0};
  parallel(Threads{2}, [&](Team&, int thread) {
    ++came;
    const auto end = std::chrono::steady_clock::now() + 1s;
    while (came < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    if (thread != 0) std::this_thread::sleep_for(300ms);
  });
  if (came == 2) {
    CHECK(std::chrono::steady_clock::now() - begin >= 300ms);
    CHECK(cpu_seconds() - before < 0.25);
  }
}

TEST_CASE("Calls respect the processors that their thread may run on") {
  const cpu_set_t all = processors_of_this_thread(), one = one_processor();
  CHECK(available_processors() >= 1);
  CHECK(available_processors() <= CPU_COUNT(&all));
  if (!all_come({2})) return;  // the other thread may run everywhere by now
  in_thread([&] {
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(available_processors() == 1);
    check_loop({8});
    std::atomic<int> elsewhere{0};
    for (int call = 0; call < 200; ++call) {
      parallel_for(Threads{2}, 20, [&](std::int64_t) {
        spend(10us);
        const cpu_set_t own = processors_of_this_thread();
        if (!CPU_EQUAL(&own, &one)) ++elsewhere;
      });
    }
    CHECK(elsewhere == 0);
  });
  // The threads are free again.
  std::atomic<int> bound{0};
  for (int call = 0; call < 200; ++call) {
    parallel_for(Threads{2}, 20, [&](std::int64_t) {
      const cpu_set_t own = processors_of_this_thread();
      if (!CPU_EQUAL(&own, &all)) ++bound;
    });
  }
  CHECK(bound == 0);
}

TEST_CASE("A thread keeps its processors when OpenMP comes to know it") {
  const cpu_set_t one = one_processor();
  CHECK(default_num_threads() >= 1);  // OpenMP knows another thread first
  in_thread([&] {
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(default_num_threads() >= 1);
    CHECK(available_processors() == 1);
  });
  in_thread([&] {
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(allowed_threads(2) >= 1);
    const cpu_set_t own = processors_of_this_thread();
    CHECK(CPU_EQUAL(&own, &one) != 0);
  });
}

TEST_CASE("The quota of a control group") {
  CHECK(quota_of("50000 100000\n") == 1);
  CHECK(quota_of("100000 100000\n") == 1);
  CHECK(quota_of("150000 100000\n") == 1);
  CHECK(quota_of("200000 100000") == 2);
  CHECK(quota_of("1600000 50000\n") == 32);
  CHECK(quota_of("9223372036854775807 1") == 2147483647);
  for (const char* const none : {"max 100000\n", "", "\n", "100000", "-1 100000\n", "100000 0\n",
                                 "0 100000", "99999999999999999999 100000", "one two"})
    CHECK_FALSE(quota_of(none).has_value());
  // Of version 1: the files of quota and period, one after the other.
  CHECK(quota_of("250000\n 100000\n") == 2);
  CHECK_FALSE(quota_of("-1\n 100000\n").has_value());

  CHECK(control_group_of("0::/user.slice/a b\n", "") == "/user.slice/a b");
  CHECK(control_group_of("12:cpu,cpuacct:/x\n0::/\n", "") == "/");
  CHECK(control_group_of("12:cpu,cpuacct:/x\n0::/y", "") == "/y");
  CHECK(control_group_of("12:cpu,cpuacct:/x\n", "").empty());
  CHECK(control_group_of("", "").empty());
  for (const char* groups :
       {"12:cpu,cpuacct:/x:y\n0::/", "2:cpuset:/z\n1:cpuacct,cpu:/x:y\n", "3:cpu:/x:y"})
    CHECK(control_group_of(groups, "cpu") == "/x:y");
  for (const char* groups : {"2:cpuset,cpuacct:/z\n0::/y\n", "cpu", "1:cpu", "::", ""})
    CHECK(control_group_of(groups, "cpu").empty());
}
