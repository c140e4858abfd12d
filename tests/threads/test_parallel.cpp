// WorkStealingRange and parallel_for: each index is processed once.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "threads/parallel.hpp"

using namespace attn;
using namespace attn::detail;

TEST_CASE("Threads take each index once: their own shares in order, then what is left of others'") {
  for (const int threads : {1, 2, 3, 64, 65, 200}) {
    for (const std::int64_t count : {0, 1, 2, 7, 63, 64, 65, 1000}) {
      CAPTURE(threads);
      CAPTURE(count);
      const auto taken = [](WorkStealingRange& shares, int thread) {
        std::vector<std::int64_t> indices;
        shares.for_each(thread, [&](std::int64_t index) { indices.push_back(index); });
        return indices;
      };
      // A thread that is alone takes all indices, its own share first.
      for (const int first : {0, threads / 2, threads - 1}) {
        WorkStealingRange shares(count, threads);
        std::vector<std::int64_t> all = taken(shares, first);
        const std::int64_t kinds = std::min(threads, 64);
        if (count % kinds == 0 && count > 0) CHECK(all.front() == count / kinds * (first % kinds));
        std::sort(all.begin(), all.end());
        REQUIRE(std::ssize(all) == count);
        for (std::int64_t n = 0; n < count; ++n) REQUIRE(all[static_cast<std::size_t>(n)] == n);
        CHECK(taken(shares, 0).empty());
      }
    }
  }
  std::vector<std::atomic<int>> times(1000);
  parallel_for(Threads{4}, 1000,
               [&](std::int64_t index) { ++times[static_cast<std::size_t>(index)]; });
  CHECK(std::all_of(times.begin(), times.end(), [](const auto& n) { return n == 1; }));
  CHECK_THROWS_AS(parallel_for(Threads{4}, 100,
                               [](std::int64_t index) {
                                 if (index == 50) throw 1;
                               }),
                  int);
}
