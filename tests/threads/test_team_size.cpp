// How many threads calls and OpenMP's regions get, under every setting of OpenMP that can make it
// fewer.
// tests/CMakeLists.txt repeats this program under OpenMP's environment variables.
#include <attn/execution.hpp>

#include <doctest/doctest.h>
#include <omp.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "threads/parallel.hpp"

using namespace attn;
using namespace attn::detail;

namespace {

/// The number of threads of a region that somebody like oneDNN opens.
int size_of_region(int asked) {
  const TeamSize team(asked);
  int size = 0;
#pragma omp parallel
#pragma omp single
  size = omp_get_num_threads();
  return size;
}

/// Checks that what is granted is also given, and returns what is granted of `asked`.
int check_granted(int asked) {
  const int granted = granted_threads(asked);
  CHECK(granted >= 1);
  CHECK(granted <= asked);
  CHECK(granted_threads(granted) == granted);
  const int before = omp_get_max_threads(), dynamic = omp_get_dynamic();
  CHECK(size_of_region(granted) == granted);
  CHECK(omp_get_max_threads() == before);
  CHECK(omp_get_dynamic() == dynamic);
  for (Executor* const executor : {&openmp_executor(), static_cast<Executor*>(nullptr)}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(asked));
    std::atomic<int> size{0};
    parallel({asked, executor}, [&](Team& team, int thread) {
      ++seen[static_cast<std::size_t>(thread)];
      size = team.size();
    });
    CHECK(size <= allowed_threads(asked));
    CHECK(seen[0] == 1);
    for (int thread = 1; thread < asked; ++thread) {
      const bool comes = executor != nullptr && thread < granted && dynamic == 0;
      CHECK(seen[static_cast<std::size_t>(thread)] >= (comes ? 1 : 0));
      CHECK(seen[static_cast<std::size_t>(thread)] <= (thread < size ? 1 : 0));
    }
  }
  return granted;
}

bool unlimited() {
  return omp_get_thread_limit() >= 8 && omp_get_max_active_levels() > 0 && !omp_in_parallel();
}

}  // namespace

TEST_CASE("A region has the threads that were granted") {
  for (const int asked : {1, 2, 4, 3, 1, 8, 5}) {
    const int granted = check_granted(asked);
    if (unlimited()) CHECK(granted == asked);
  }
  std::thread([] {
    const int granted = check_granted(4);
    if (unlimited()) CHECK(granted == 4);
  }).join();
}

TEST_CASE("OpenMP's functions limit the threads as they say") {
  const int dynamic = omp_get_dynamic(), levels = omp_get_max_active_levels();
  omp_set_dynamic(1);
  check_granted(4);
  omp_set_dynamic(dynamic);
  omp_set_max_active_levels(0);
  CHECK(check_granted(4) == 1);
  CHECK(default_num_threads() == 1);
  omp_set_max_active_levels(levels);
  check_granted(4);
  omp_set_max_active_levels(3);
  check_granted(4);
  omp_set_max_active_levels(levels);
}

TEST_CASE("Inside a parallel region there is one thread") {
  std::vector<int> granted(2, 1), defaults(2, 1), sizes(2, 1);
  const auto look = [&] {
    const auto thread = static_cast<std::size_t>(omp_get_thread_num());
    granted[thread] = granted_threads(4);
    defaults[thread] = default_num_threads();
    parallel(Threads{4}, [&](Team& team, int number) {
      if (number == 0) sizes[thread] = team.size();
    });
  };
  const bool one = !unlimited();  // then OpenMP may make it a region of one, which is like none
#pragma omp parallel num_threads(2)
  look();
  if (!one && omp_get_dynamic() == 0) {
    CHECK(granted == std::vector<int>(2, 1));
    CHECK(defaults == std::vector<int>(2, 1));
    CHECK(sizes == std::vector<int>(2, 1));
  }
#pragma omp parallel num_threads(1)
  look();
  CHECK(sizes[0] <= allowed_threads(4));
}

TEST_CASE("No number is larger than the library's limit") {
  constexpr int most = std::numeric_limits<int>::max();
  CHECK(resolved_num_threads(most) == max_num_threads);
  CHECK(resolved_num_threads(max_num_threads) == max_num_threads);
  CHECK(resolved_num_threads(3) == 3);
  CHECK(resolved_num_threads({}) == default_num_threads());
  const int before = omp_get_max_threads();
  omp_set_num_threads(most);
  CHECK(default_num_threads() <= max_num_threads);
  omp_set_num_threads(before);
  CHECK(threads_for(0, {most}).count == 1);
  constexpr std::int64_t endless = std::numeric_limits<std::int64_t>::max();
  CHECK(threads_for(endless, {max_num_threads}).count == max_num_threads);
  CHECK(threads_for(endless, {4, &openmp_executor()}).executor == &openmp_executor());
}
