// What a PagedKvCache should hold: a list of keys for each sequence, and each page either free or
// held.
#pragma once

#include <attn/kv_cache.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "support/cache_model.hpp"

namespace attn::test {

/// The keys of each existing sequence.
using PagedModel = std::map<PagedKvCache::Sequence, std::vector<ModelKey>>;

/// The number of pages that hold this many keys; the last page may be partly filled.
inline std::int64_t pages_for(std::int64_t keys, std::int64_t page_size) {
  return (keys + page_size - 1) / page_size;
}

/// How many sequences hold each page.
inline std::map<std::int32_t, int> holders(const PagedKvCache& cache, const PagedModel& model) {
  std::map<std::int32_t, int> holders;
  for (const auto& [sequence, keys] : model) {
    for (const std::int32_t page : cache.pages(sequence)) ++holders[page];
  }
  return holders;
}

/// Returns "" if one binding of these sequences shows the keys of the model; else the first
/// difference.
inline std::string difference(PagedKvCache& cache, const PagedModel& model,
                              const std::vector<PagedKvCache::Sequence>& sequences) {
  const std::int64_t page_size = cache.settings().page_size;
  const AttentionTensors bound = cache.bind({}, sequences);
  std::int64_t max_pages = 1;
  for (const PagedKvCache::Sequence sequence : sequences)
    max_pages = std::max<std::int64_t>(max_pages, std::ssize(cache.pages(sequence)));
  if (bound.storage.page_table().shape != Dims{std::ssize(sequences), max_pages})
    return "page_table is " + bound.storage.page_table().shape.to_string();
  if (bound.kv_lens.shape != Dims{std::ssize(sequences)})
    return "kv_lens is " + bound.kv_lens.shape.to_string();
  for (std::int64_t n = 0; n < std::ssize(sequences); ++n) {
    const std::vector<ModelKey>& keys = model.at(sequences[static_cast<std::size_t>(n)]);
    const std::int64_t length = std::ssize(keys);
    if (entry<std::int64_t>(bound.kv_lens, {n}) != length)
      return fmt::format("kv_lens[{}] is not {}", n, length);
    for (std::int64_t key = 0; key < length; ++key) {
      const std::int64_t page =
          entry<std::int32_t>(bound.storage.page_table(), {n, key / page_size});
      const std::string at_key =
          difference(bound, page, key % page_size, keys[static_cast<std::size_t>(key)]);
      if (!at_key.empty())
        return fmt::format("sequence {} key {}: {}", sequences[static_cast<std::size_t>(n)], key,
                           at_key);
    }
    for (std::int64_t entry_at = pages_for(length, page_size); entry_at < max_pages; ++entry_at) {
      if (entry<std::int32_t>(bound.storage.page_table(), {n, entry_at}) != 0)
        return "page_table is not 0 beyond a sequence";
    }
  }
  return "";
}

/// Returns "" if all lengths and numbers of pages are as in the model and each page is either free
/// or held; else the first difference.
inline std::string difference_of_pages(const PagedKvCache& cache, const PagedModel& model) {
  for (const auto& [sequence, keys] : model) {
    if (cache.length(sequence) != std::ssize(keys))
      return fmt::format("sequence {} has length {}", sequence, cache.length(sequence));
    const std::set<std::int32_t> pages(cache.pages(sequence).begin(), cache.pages(sequence).end());
    if (std::ssize(pages) != std::ssize(cache.pages(sequence)))
      return fmt::format("sequence {} has a page twice", sequence);
    if (std::ssize(pages) != pages_for(std::ssize(keys), cache.settings().page_size))
      return fmt::format("{} pages", pages.size());
    if (!pages.empty() && (*pages.begin() < 0 || *pages.rbegin() >= cache.settings().num_pages))
      return "a page outside the pool";
  }
  const std::int64_t held = std::ssize(holders(cache, model));
  if (held + cache.free_pages() != cache.settings().num_pages)
    return fmt::format("{} held, {} free", held, cache.free_pages());
  return "";
}

}  // namespace attn::test
