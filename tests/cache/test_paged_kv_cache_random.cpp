// Random operations on PagedKvCache, compared with a list of keys for each sequence after each
// step.
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/check_fails.hpp"
#include "support/paged_kv_cache_model.hpp"
#include "support/random.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Sequence = PagedKvCache::Sequence;

std::string to_string(const PagedKvCache::Settings& s) {
  return fmt::format("{} pages of {} heads {} dims {}/{} {} {}", s.num_pages, s.page_size,
                     s.num_kv_heads, s.head_dim, v_dim(s), name_of(s.dtype), name_of(s.layout));
}

/// Applies the same random operations to a cache and to its model.
class RandomRun {
 public:
  static constexpr int steps = 40;

  explicit RandomRun(std::uint64_t seed)
      : random_(seed),
        settings_(random_settings()),
        cache_(settings_),
        tables_(random_tables(random_, settings_.num_pages * settings_.page_size,
                              settings_.head_dim)) {}

  const PagedKvCache::Settings& settings() const { return settings_; }

  void step() {
    const double choice = random_.uniform();
    if (model_.empty() || choice < 0.15) return create();
    const Sequence sequence = any_sequence();
    if (choice < 0.3) return fork(sequence);
    if (choice < 0.4) return remove(sequence);
    if (choice < 0.55) return truncate(sequence);
    append(sequence);
  }

  std::string difference() {
    std::vector<Sequence> sequences;
    for (const auto& [sequence, keys] : model_) sequences.push_back(sequence);
    if (!sequences.empty()) sequences.push_back(any_sequence());
    const std::string of_pages = difference_of_pages(cache_, model_);
    return of_pages.empty() ? test::difference(cache_, model_, sequences) : of_pages;
  }

  /// Removes all sequences and returns the number of free pages.
  std::int64_t free_pages_of_none() {
    while (!model_.empty()) remove(any_sequence());
    return cache_.free_pages();
  }

 private:
  PagedKvCache::Settings random_settings() {
    PagedKvCache::Settings settings{.num_pages = random_.integer(1, 12),
                                    .page_size = random_.integer(1, 5),
                                    .num_kv_heads = random_.integer(1, 3),
                                    .head_dim = random_.integer(1, 21)};
    if (random_.chance(0.6)) settings.v_head_dim = random_.integer(1, 21);
    settings.dtype = random_.pick(cache_types);
    settings.layout = random_.pick(cache_layouts);
    return settings;
  }

  Sequence any_sequence() {
    auto at = model_.begin();
    std::advance(at, random_.integer(0, std::ssize(model_) - 1));
    return at->first;
  }
  Sequence lowest_unused() const {
    Sequence number = 0;
    while (model_.count(number) != 0) ++number;
    return number;
  }

  void create() {
    const Sequence expected = lowest_unused();
    CHECK(cache_.create() == expected);
    model_[expected] = {};
  }
  void fork(Sequence parent) {
    const Sequence expected = lowest_unused();
    const std::int64_t free = cache_.free_pages();
    CHECK(cache_.fork(parent) == expected);
    CHECK(cache_.free_pages() == free);
    model_[expected] = model_.at(parent);
  }
  void remove(Sequence sequence) {
    cache_.remove(sequence);
    model_.erase(sequence);
    check_fails(ErrorCode::invalid_argument, {fmt::format("sequence {} ", sequence)},
                [&] { cache_.length(sequence); });
  }
  void truncate(Sequence sequence) {
    std::vector<ModelKey>& keys = model_.at(sequence);
    const std::int64_t length = random_.integer(0, std::ssize(keys));
    cache_.truncate(sequence, length);
    keys.resize(static_cast<std::size_t>(length));
  }
  void append(Sequence sequence) {
    const std::int64_t count =
        random_.chance(0.5) ? random_.integer(0, 2) : random_.integer(0, 3 * settings_.page_size);
    const GivenKeys given{random_rows(random_, {settings_.num_kv_heads, count, settings_.head_dim}),
                          random_rows(random_, {settings_.num_kv_heads, count, v_dim(settings_)})};
    const auto run = [&] {
      cache_.append(sequence, given.k.view(), given.v.view(), rope_of(tables_));
    };
    std::vector<ModelKey>& keys = model_.at(sequence);
    const std::int64_t length = std::ssize(keys);
    std::int64_t needed =
        pages_for(length + count, settings_.page_size) - pages_for(length, settings_.page_size);
    const bool writes_into_page = count > 0 && length % settings_.page_size != 0;
    if (writes_into_page && holders(cache_, model_)[cache_.pages(sequence).back()] > 1) ++needed;
    const std::int64_t free = cache_.free_pages();
    if (needed > free) {
      const std::vector<std::string> fragments = {
          fmt::format("sequence {},", sequence), fmt::format("need {} more pages", needed),
          fmt::format("{} of {} are free", free, settings_.num_pages)};
      return check_fails(ErrorCode::exhausted, fragments, run);
    }
    run();
    CHECK(cache_.free_pages() == free - needed);
    for (ModelKey& key : given.stored_in(settings_.dtype, 0, length, tables_))
      keys.push_back(std::move(key));
  }

  Random random_;
  PagedKvCache::Settings settings_;
  PagedKvCache cache_;
  PagedModel model_;
  std::optional<RandomRopeTables> tables_;
};

}  // namespace

TEST_CASE("Random operations leave what a list of keys holds, and lose no page") {
  for (const std::uint64_t seed : seeds(1, 400)) {
    RandomRun run(seed);
    INFO(to_string(run.settings()), "\n", repeat_command(seed));
    std::string difference;
    for (int step = 0; step < RandomRun::steps && difference.empty(); ++step) {
      run.step();
      difference = run.difference();
      if (!difference.empty()) difference = fmt::format("after step {}: {}", step, difference);
    }
    CHECK(difference == "");
    CHECK(run.free_pages_of_none() == run.settings().num_pages);
  }
}
