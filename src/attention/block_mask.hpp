// What is inside a BlockMask, and what the passes of a call ask it.
#pragma once

#include <attn/block_mask.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "attention/key_range.hpp"

namespace attn::detail {

/// Neighboring blocks of keys of one kind.
struct BlockRun {
  std::int64_t begin;
  std::int64_t end;
  BlockKind kind;
};

/// The keys that each query of a sequence sees, by pairs. Queries that see the same keys share a
/// set of them, so that memory is linear in the number of runs of keys of documents.
struct KeySets {
  struct Queries {
    std::int64_t first;  // up to the first of the next
    std::int64_t set;
  };
  std::vector<Queries> queries;
  std::vector<std::int64_t> offsets{0};  // set n has ranges offsets[n], ..., offsets[n + 1] - 1
  std::vector<KeyRange> ranges;          // of a set: in order, with hidden keys between them

  std::int64_t num_sets() const noexcept { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::span<const KeyRange> set(std::int64_t n) const noexcept {
    return std::span(ranges).subspan(static_cast<std::size_t>(offsets[n]),
                                     static_cast<std::size_t>(offsets[n + 1] - offsets[n]));
  }
  /// The queries that share their keys with query `q_index`. There is one.
  std::vector<Queries>::const_iterator queries_of(std::int64_t q_index) const noexcept;
  std::span<const KeyRange> keys_of(std::int64_t q_index) const noexcept {
    return set(queries_of(q_index)->set);
  }
};

/// Which query of a call is meant.
struct BlockMaskRow {
  std::int64_t batch;
  std::int64_t q_head;
  std::int64_t q_index;
};

}  // namespace attn::detail

namespace attn {

struct BlockMask::Blocks {
  BlockMaskSizes sizes;
  /// The runs of row n, a block of queries of a head, are offsets[n], ..., offsets[n + 1] - 1: in
  /// order, without those of empty blocks.
  std::vector<std::int64_t> offsets{0};
  std::vector<detail::BlockRun> runs;
  bool exact = false;
  /// The blocks of keys that any query of a head sees, as ranges of them in order. Those of head n
  /// are needed_offsets[n], ..., needed_offsets[n + 1] - 1.
  std::vector<std::int64_t> needed_offsets;
  std::vector<detail::KeyRange> needed;
  std::vector<detail::KeySets> sets;  // of each entry of the batch, if exact
  bool stands_for_mask_mod = false;
  bool stands_for_mask = false;
  Counts counts{};
  std::optional<double> density{};

  std::int64_t q_blocks() const noexcept;
  std::int64_t kv_blocks() const noexcept;
  std::int64_t rows() const noexcept { return sizes.batch * sizes.num_q_heads * q_blocks(); }
  /// The keys of neighboring blocks.
  detail::KeyRange keys_of(detail::KeyRange blocks) const noexcept;
  /// The runs of a block of queries.
  std::span<const detail::BlockRun> runs_of(std::int64_t batch, std::int64_t q_head,
                                            std::int64_t q_block) const noexcept;
  std::span<const detail::BlockRun> runs_of(const detail::BlockMaskRow& row) const noexcept {
    return runs_of(row.batch, row.q_head, row.q_index / sizes.block.q);
  }
  std::span<const detail::KeyRange> visible_ranges(const detail::BlockMaskRow& row) const noexcept {
    return sets[sizes.batch == 1 ? 0 : static_cast<std::size_t>(row.batch)].keys_of(row.q_index);
  }

  /// Calls f(KeyRange, BlockKind) for each run of the keys that the block mask does not hide from a
  /// query, in order. The keys of an exact one are those that it shows; they count as full.
  template <class F>
  void for_each_run(const detail::BlockMaskRow& row, detail::KeyRange keys, F f) const {
    const auto call = [&](detail::KeyRange run, BlockKind kind) {
      const detail::KeyRange part = detail::intersection(run, keys);
      if (!part.empty()) f(part, kind);
      return run.end < keys.end;
    };
    if (exact) {
      for (const detail::KeyRange& range : from_key(visible_ranges(row), keys.begin)) {
        if (!call(range, BlockKind::full)) return;
      }
      return;
    }
    const std::int64_t first_block = keys.begin / sizes.block.kv;
    for (const detail::BlockRun& run : from_key(runs_of(row), first_block)) {
      if (!call(keys_of({run.begin, run.end}), run.kind)) return;
    }
  }

  /// From the first to the last of the keys that the block mask does not hide from a query. Empty
  /// if it hides them all.
  detail::KeyRange nonempty_range(const detail::BlockMaskRow& row,
                                  detail::KeyRange keys) const noexcept;

  /// Some queries of neighboring heads of an entry.
  struct Queries {
    std::int64_t batch = 0;
    std::int64_t head_begin = 0, head_end = 0;
    std::int64_t begin = 0, end = 0;
  };
  /// Whether any of the queries sees any of the keys' blocks.
  bool any_visible(const Queries& queries, detail::KeyRange keys) const noexcept;
  /// From the first to the last of the keys whose block any of the queries sees.
  detail::KeyRange visible_keys(const Queries& queries, detail::KeyRange keys) const noexcept;
  /// Whether the queries see the same keys.
  bool alike(const Queries& queries) const noexcept;
  /// From the first to the last of the keys whose block any query of the heads sees.
  detail::KeyRange needed_keys(const Queries& all, detail::KeyRange keys) const noexcept;
  /// Sets `needed` from the runs.
  void find_needed();

  /// The part of one entry of the batch, with fewer keys.
  BlockMask cropped(std::int64_t batch, std::int64_t kv_len) const;

 private:
  /// The number of a head of an entry among those that are not alike.
  std::int64_t head_number(std::int64_t batch, std::int64_t q_head) const noexcept {
    return (sizes.batch == 1 ? 0 : batch) * sizes.num_q_heads +
           (sizes.num_q_heads == 1 ? 0 : q_head);
  }
  /// One head stands for all where they are alike.
  std::int64_t last_head(const Queries& queries) const noexcept {
    return sizes.num_q_heads == 1 ? queries.head_begin + 1 : queries.head_end;
  }
  detail::KeyRange blocks_of(detail::KeyRange keys) const noexcept;
  /// The ranges or runs that end behind a key or block.
  template <class Range>
  static std::span<const Range> from_key(std::span<const Range> ranges, std::int64_t key) noexcept {
    const auto first = std::partition_point(ranges.begin(), ranges.end(),
                                            [key](const Range& range) { return range.end <= key; });
    return ranges.subspan(static_cast<std::size_t>(first - ranges.begin()));
  }
};

}  // namespace attn
