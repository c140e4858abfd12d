// Random block masks of every kind.
#pragma once

#include <attn/block_mask.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "support/case.hpp"
#include "support/random.hpp"

namespace attn::test {

/// Blocks of every size, greater than all queries or keys too.
inline BlockSize random_block_size(Random& random) {
  const auto extent = [&] { return random.pick<std::int64_t>({1, 2, 5, 8, 16, 33, 64, 1000}); };
  return {extent(), extent()};
}

inline TensorView ids_of(const std::vector<std::int64_t>& numbers) {
  return {numbers.data(), DType::i64, Dims{static_cast<std::int64_t>(numbers.size())}};
}

/// Documents one after another, or in any order.
inline std::vector<std::int64_t> random_documents(Random& random, std::int64_t len) {
  std::vector<std::int64_t> documents(static_cast<std::size_t>(len));
  for (auto& document : documents) document = random.integer(-1, 3);
  if (random.chance(0.6)) std::sort(documents.begin(), documents.end());
  return documents;
}

inline std::vector<VisibleRange> random_ranges(Random& random, std::int64_t q_len,
                                               std::int64_t kv_len) {
  std::vector<VisibleRange> ranges(static_cast<std::size_t>(random.integer(0, 6)));
  for (VisibleRange& range : ranges) {
    range.q_begin = random.integer(0, q_len);
    range.q_end = random.integer(range.q_begin, q_len);
    range.key_begin = random.integer(0, kv_len);
    range.key_end = random.integer(range.key_begin, kv_len);
  }
  return ranges;
}

/// Blocks of both kinds, as the numbers of two lists.
struct RandomLists {
  RandomLists(Random& random, std::int64_t rows, std::int64_t kv_blocks, bool with_partial) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t block = kv_blocks - 1; block >= 0; --block) {
        if (random.chance(0.4)) continue;
        (with_partial && random.chance(0.5) ? partial : full).push_back(block);
      }
      full_offsets.push_back(static_cast<std::int64_t>(full.size()));
      partial_offsets.push_back(static_cast<std::int64_t>(partial.size()));
    }
  }
  BlockMask block_mask(const BlockMaskSizes& sizes) const {
    return BlockMask::from_lists({ids_of(full_offsets), ids_of(full)},
                                 {ids_of(partial_offsets), ids_of(partial)}, sizes);
  }

  std::vector<std::int64_t> full_offsets{0}, full, partial_offsets{0}, partial;
};

inline std::int64_t blocks_of(std::int64_t len, std::int64_t block) {
  return (len + block - 1) / block;
}

/// A block mask for the call. Summaries are lists, with partial blocks where a mask decides about
/// them, so that they need not agree with it.
inline BlockMask random_block_mask(Random& random, const Case& c) {
  BlockMaskSizes sizes{.q_len = c.q_len, .kv_len = c.kv_len, .block = random_block_size(random)};
  switch (random.integer(0, 2)) {
    case 0: {
      const auto queries = random_documents(random, c.q_len);
      const auto keys = random_documents(random, c.kv_len);
      return BlockMask::from_documents(ids_of(queries), ids_of(keys), sizes.block);
    }
    case 1: return BlockMask::from_ranges(random_ranges(random, c.q_len, c.kv_len), sizes);
    default: break;
  }
  if (random.chance(0.5)) sizes.batch = c.batch;
  if (random.chance(0.5)) sizes.num_q_heads = c.num_q_heads;
  const std::int64_t rows = sizes.batch * sizes.num_q_heads * blocks_of(c.q_len, sizes.block.q);
  const RandomLists lists(random, rows, blocks_of(c.kv_len, sizes.block.kv),
                          c.options.mask_mod || c.mask);
  return lists.block_mask(sizes);
}

inline void choose_block_mask(Random& random, Case& c) {
  if (random.chance(0.25)) c.options.block_mask = random_block_mask(random, c);
}

}  // namespace attn::test
