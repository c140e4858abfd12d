// Random operations on KvCache, compared with a list of keys for each sequence after each step.
#include <attn/kv_cache.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/kv_cache_model.hpp"
#include "support/random.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::string to_string(const KvCache::Settings& s) {
  return fmt::format("batch {} heads {} capacity {} dims {}/{} {} {}{}", s.batch, s.num_kv_heads,
                     s.capacity, s.head_dim, v_dim(s), name_of(s.dtype), name_of(s.layout),
                     s.rolling ? " rolling" : "");
}

/// Applies the same random operations to a cache and to its model.
class RandomRun {
 public:
  static constexpr int steps = 25;

  explicit RandomRun(std::uint64_t seed)
      : random_(seed),
        settings_(random_settings()),
        cache_(settings_),
        model_(static_cast<std::size_t>(settings_.batch)),
        tables_(random_tables(random_, steps * most_keys() + 1, settings_.head_dim)) {}

  const KvCache::Settings& settings() const { return settings_; }
  std::string difference() const { return test::difference(cache_, model_); }

  void step() {
    const std::int64_t sequence = random_.integer(0, settings_.batch - 1);
    ModelSequence& model = model_[static_cast<std::size_t>(sequence)];
    const double choice = random_.uniform();
    if (choice < 0.05) {
      cache_.clear();
      for (ModelSequence& each : model_) each = {};
    } else if (choice < 0.3) {
      const std::int64_t position = random_.integer(model.oldest, model.end());
      cache_.truncate(sequence, position);
      model.keys.resize(static_cast<std::size_t>(position - model.oldest));
    } else if (choice < 0.6) {
      append(0, settings_.batch, [&](const GivenKeys& keys) {
        cache_.append(keys.k.view(), keys.v.view(), rope_of(tables_));
      });
    } else {
      append(sequence, {}, [&](const GivenKeys& keys) {
        cache_.append_to(sequence, keys.k.view(), keys.v.view(), rope_of(tables_));
      });
    }
  }

 private:
  std::int64_t most_keys() const { return settings_.capacity + 4; }

  KvCache::Settings random_settings() {
    KvCache::Settings settings{.batch = random_.integer(1, 3),
                               .num_kv_heads = random_.integer(1, 3),
                               .capacity = random_.integer(1, 9),
                               .head_dim = random_.integer(1, 21)};
    if (random_.chance(0.6)) settings.v_head_dim = random_.integer(1, 21);
    settings.dtype = random_.pick(cache_types);
    settings.layout = random_.pick(cache_layouts);
    settings.rolling = random_.chance(0.5);
    return settings;
  }

  GivenKeys random_keys(std::optional<std::int64_t> batch) {
    const std::int64_t count =
        random_.chance(0.5) ? random_.integer(0, 2) : random_.integer(0, most_keys());
    const auto shape = [&](std::int64_t dim) {
      return batch ? Dims{*batch, settings_.num_kv_heads, count, dim}
                   : Dims{settings_.num_kv_heads, count, dim};
    };
    return {random_rows(random_, shape(settings_.head_dim)),
            random_rows(random_, shape(v_dim(settings_)))};
  }

  template <class F>
  void append(std::int64_t first, std::optional<std::int64_t> batch, F&& run) {
    const GivenKeys keys = random_keys(batch);
    const std::int64_t count = keys.k.shape()[keys.k.shape().rank() - 2];
    const std::span<ModelSequence> grown(model_.data() + first,
                                         static_cast<std::size_t>(batch.value_or(1)));
    const bool fits = settings_.rolling ||
                      std::all_of(grown.begin(), grown.end(), [&](const ModelSequence& sequence) {
                        return sequence.length() + count <= settings_.capacity;
                      });
    if (!fits)
      return check_fails(ErrorCode::exhausted, {fmt::format("k has {} keys", count)},
                         [&] { run(keys); });
    run(keys);
    for (std::size_t n = 0; n < grown.size(); ++n) {
      ModelSequence& sequence = grown[n];
      for (ModelKey& key :
           keys.stored_in(settings_.dtype, static_cast<std::int64_t>(n), sequence.end(), tables_)) {
        sequence.keys.push_back(std::move(key));
      }
      sequence.roll(settings_.capacity);
    }
  }

  Random random_;
  KvCache::Settings settings_;
  KvCache cache_;
  std::vector<ModelSequence> model_;
  std::optional<RandomRopeTables> tables_;
};

}  // namespace

TEST_CASE("Random operations leave what a list of keys holds") {
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
  }
}
