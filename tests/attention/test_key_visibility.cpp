// KeyVisibility: the range of keys that each query sees, against the masks asked key by key.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "attention/visibility.hpp"
#include "support/masks.hpp"

using namespace attn;
using namespace attn::detail;
using namespace attn::test;

namespace {

Problem problem_of(std::int64_t q_len, std::int64_t kv_len, std::optional<Causal> causal,
                   std::optional<Window> window) {
  Problem problem;
  problem.sizes = {.batch = 1,
                   .num_q_heads = 1,
                   .num_kv_heads = 1,
                   .group_size = 1,
                   .q_len = q_len,
                   .kv_len = kv_len};
  problem.causal = causal.has_value();
  if (causal) problem.position = causal->position.value_or(QueryPosition::bottom_right());
  problem.window = window.value_or(Window{});
  return problem;
}

/// What causal mask and window say about one key.
bool is_visible(const Problem& problem, std::int64_t p, std::int64_t key) {
  const Window& window = problem.window;
  return (!problem.causal || key <= p) && (!window.left || key >= p - *window.left) &&
         (!window.right || key <= p + *window.right);
}

/// Returns "" if the range of each query holds exactly the keys that are visible one by one; else
/// the first place where it does not.
std::string wrong_range(const Problem& problem, std::int64_t length, std::int64_t key_count) {
  const KeyVisibility visibility(problem, problem.sizes.q_len, length, key_count);
  for (std::int64_t i = 0; i < problem.sizes.q_len; ++i) {
    const KeyRange range = visibility.range_of(i);
    const std::int64_t p = i + position_offset(problem, problem.sizes.q_len, length);
    for (std::int64_t key = 0; key < problem.sizes.kv_len; ++key) {
      const bool expected = key < length && key < key_count && is_visible(problem, p, key);
      if ((range.begin <= key && key < range.end) != expected)
        return fmt::format("query {} key {}", i, key);
    }
    if (range.size() > 0 && (range.begin < 0 || range.end > problem.sizes.kv_len))
      return fmt::format("query {} out of bounds", i);
  }
  return "";
}

/// Returns "" if visible_range(first, last) holds the range of each query between them, for all
/// pairs; else the first pair for which it does not.
std::string wrong_visible_range(const Problem& problem) {
  const KeyVisibility visibility(problem, problem.sizes.q_len, problem.sizes.kv_len,
                                 problem.sizes.kv_len);
  for (std::int64_t first = 0; first < problem.sizes.q_len; ++first) {
    for (std::int64_t last = first; last < problem.sizes.q_len; ++last) {
      const KeyRange visible_range = visibility.visible_range(first, last);
      for (std::int64_t i = first; i <= last; ++i) {
        const KeyRange range = visibility.range_of(i);
        if (!range.empty() && (range.begin < visible_range.begin || range.end > visible_range.end))
          return fmt::format("{} to {}", first, last);
      }
    }
  }
  return "";
}

}  // namespace

TEST_CASE("A query's range holds the keys that causal mask, window and lengths leave it") {
  for (const auto& [q_len, kv_len] :
       {std::pair{7, 19}, std::pair{19, 7}, std::pair{9, 9}, std::pair{1, 0}, std::pair{3, 0}}) {
    for (const auto& causal : causal_masks(q_len, kv_len)) {
      for (const auto& window : windows()) {
        const Problem problem = problem_of(q_len, kv_len, causal, window);
        for (const std::int64_t length : {0, kv_len / 2, kv_len}) {
          for (const std::int64_t key_count : {0, kv_len / 3, kv_len})
            CHECK(wrong_range(problem, length, key_count) == "");
        }
        CHECK(wrong_visible_range(problem) == "");
      }
    }
  }
}

TEST_CASE("Positions far outside leave empty or full ranges") {
  constexpr std::int64_t far = std::int64_t{1} << 48;
  const std::int64_t length = 10;
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(-far), Window{far, far}), 5, length, 10)
            .range_of(0)
            .empty());
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(far), {}), 5, length, 10).range_of(0) ==
        KeyRange{0, 10});
  CHECK(KeyVisibility(problem_of(5, 10, Causal::with_offset(far), Window{3, 3}), 5, length, 10)
            .range_of(0)
            .empty());
}
