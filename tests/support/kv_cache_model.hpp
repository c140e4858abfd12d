// What a KvCache should hold: a list of keys for each sequence.
#pragma once

#include <attn/kv_cache.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "support/cache_model.hpp"

namespace attn::test {

/// The keys that a sequence of a cache should hold, from position `oldest` on.
struct ModelSequence {
  std::vector<ModelKey> keys;
  std::int64_t oldest = 0;

  std::int64_t length() const { return std::ssize(keys); }
  std::int64_t end() const { return oldest + length(); }
  void roll(std::int64_t capacity) {
    const std::int64_t dropped = std::max<std::int64_t>(0, length() - capacity);
    keys.erase(keys.begin(), keys.begin() + dropped);
    oldest += dropped;
  }
};

/// Returns "" if the cache holds what its model holds and reports its lengths and positions; else
/// the first difference.
inline std::string difference(const KvCache& cache, const std::vector<ModelSequence>& model) {
  const AttentionTensors bound = cache.bind({});
  const KvCache::Settings& settings = cache.settings();
  for (std::int64_t sequence = 0; sequence < settings.batch; ++sequence) {
    const ModelSequence& wanted = model[static_cast<std::size_t>(sequence)];
    const std::int64_t start =
        settings.rolling ? entry<std::int64_t>(bound.storage.starts(), {sequence}) : 0;
    if (cache.length(sequence) != wanted.length())
      return fmt::format("length {} of {}", cache.length(sequence), wanted.length());
    if (entry<std::int64_t>(bound.kv_lens, {sequence}) != wanted.length())
      return fmt::format("kv_lens[{}] is off", sequence);
    if (cache.position(sequence) != wanted.end())
      return fmt::format("position {} of {}", cache.position(sequence), wanted.end());
    if (start < 0 || start >= settings.capacity)
      return fmt::format("kv_starts[{}] is {}", sequence, start);
    for (std::int64_t key = 0; key < wanted.length(); ++key) {
      const std::string at_key = difference(bound, sequence, (start + key) % settings.capacity,
                                            wanted.keys[static_cast<std::size_t>(key)]);
      if (!at_key.empty()) return at_key;
    }
  }
  return "";
}

}  // namespace attn::test
