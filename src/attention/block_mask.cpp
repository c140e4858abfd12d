// What a BlockMask answers. block_mask_build.hpp makes them.
#include "attention/block_mask.hpp"

#include <fmt/format.h>

#include <utility>

#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"

namespace attn {
namespace detail {

std::vector<KeySets::Queries>::const_iterator KeySets::queries_of(
    std::int64_t q_index) const noexcept {
  return std::partition_point(queries.begin(), queries.end(),
                              [q_index](const Queries& each) { return each.first <= q_index; }) -
         1;
}

namespace {

/// The sets with the keys before kv_len alone.
KeySets cropped_sets(const KeySets& sets, std::int64_t kv_len) {
  KeySets cropped;
  cropped.queries = sets.queries;
  for (std::int64_t n = 0; n < sets.num_sets(); ++n) {
    for (const KeyRange& range : sets.set(n)) {
      const KeyRange rest = intersection(range, {0, kv_len});
      if (!rest.empty()) cropped.ranges.push_back(rest);
    }
    cropped.offsets.push_back(static_cast<std::int64_t>(cropped.ranges.size()));
  }
  return cropped;
}

/// From the first of the ranges, which are in order, that has a part in `within` to the last.
template <class Range>
KeyRange covering_range_of(std::span<const Range> ranges, KeyRange within) {
  const auto first = std::partition_point(
      ranges.begin(), ranges.end(), [&](const Range& range) { return range.end <= within.begin; });
  const auto behind = std::partition_point(
      first, ranges.end(), [&](const Range& range) { return range.begin < within.end; });
  if (first == behind) return {within.begin, within.begin};
  return {first->begin, (behind - 1)->end};
}

KeyRange covering_range(KeyRange a, KeyRange b) {
  if (a.empty() || b.empty()) return a.empty() ? b : a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

KeyRange within(KeyRange found, KeyRange keys) {
  const KeyRange part = intersection(found, keys);
  return part.empty() ? KeyRange{keys.begin, keys.begin} : part;
}

void require_index(const char* name, std::int64_t index, std::int64_t count) {
  // An index where all are alike may be any.
  if (count == 1 && index > 0) return;
  if (index < 0 || index >= count)
    reject(fmt::format("{} is {}; block_mask has {}", name, index, count));
}

}  // namespace
}  // namespace detail

using namespace detail;

std::int64_t BlockMask::Blocks::q_blocks() const noexcept {
  return divide_up(sizes.q_len, sizes.block.q);
}

std::int64_t BlockMask::Blocks::kv_blocks() const noexcept {
  return divide_up(sizes.kv_len, sizes.block.kv);
}

KeyRange BlockMask::Blocks::keys_of(KeyRange blocks) const noexcept {
  return {blocks.begin * sizes.block.kv,
          std::min(saturating_product(blocks.end, sizes.block.kv), sizes.kv_len)};
}

std::span<const BlockRun> BlockMask::Blocks::runs_of(std::int64_t batch, std::int64_t q_head,
                                                     std::int64_t q_block) const noexcept {
  const std::int64_t row = head_number(batch, q_head) * q_blocks() + q_block;
  return std::span(runs).subspan(static_cast<std::size_t>(offsets[row]),
                                 static_cast<std::size_t>(offsets[row + 1] - offsets[row]));
}

KeyRange BlockMask::Blocks::blocks_of(KeyRange keys) const noexcept {
  return {keys.begin / sizes.block.kv, divide_up(keys.end, sizes.block.kv)};
}

KeyRange BlockMask::Blocks::nonempty_range(const BlockMaskRow& row, KeyRange keys) const noexcept {
  if (keys.empty()) return keys;
  const KeyRange found = exact ? covering_range_of(visible_ranges(row), keys)
                               : keys_of(covering_range_of(runs_of(row), blocks_of(keys)));
  return within(found, keys);
}

bool BlockMask::Blocks::any_visible(const Queries& queries, KeyRange keys) const noexcept {
  const KeyRange blocks = blocks_of(keys);
  for (std::int64_t head = queries.head_begin; head < last_head(queries); ++head) {
    for (std::int64_t q = queries.begin / sizes.block.q; q * sizes.block.q < queries.end; ++q) {
      const auto found = from_key(runs_of(queries.batch, head, q), blocks.begin);
      if (!found.empty() && found.front().begin < blocks.end) return true;
    }
  }
  return false;
}

KeyRange BlockMask::Blocks::visible_keys(const Queries& queries, KeyRange keys) const noexcept {
  const KeyRange blocks = blocks_of(keys);
  KeyRange found{blocks.end, blocks.begin};
  for (std::int64_t head = queries.head_begin; head < last_head(queries); ++head) {
    for (std::int64_t q = queries.begin / sizes.block.q; q * sizes.block.q < queries.end; ++q)
      found = covering_range(found, covering_range_of(runs_of(queries.batch, head, q), blocks));
  }
  return within(keys_of(found), keys);
}

bool BlockMask::Blocks::alike(const Queries& queries) const noexcept {
  if (last_head(queries) - queries.head_begin > 1) return false;
  if (!exact) return queries.begin / sizes.block.q == (queries.end - 1) / sizes.block.q;
  const KeySets& of_entry = sets[sizes.batch == 1 ? 0 : static_cast<std::size_t>(queries.batch)];
  const auto next = of_entry.queries_of(queries.begin) + 1;
  return next == of_entry.queries.end() || next->first >= queries.end;
}

KeyRange BlockMask::Blocks::needed_keys(const Queries& all, KeyRange keys) const noexcept {
  const KeyRange blocks = blocks_of(keys);
  KeyRange found{blocks.end, blocks.begin};
  for (std::int64_t head = all.head_begin; head < last_head(all); ++head) {
    const std::int64_t n = head_number(all.batch, head);
    const std::span<const KeyRange> ranges = std::span(needed).subspan(
        static_cast<std::size_t>(needed_offsets[n]),
        static_cast<std::size_t>(needed_offsets[n + 1] - needed_offsets[n]));
    found = covering_range(found, covering_range_of(ranges, blocks));
  }
  return within(keys_of(found), keys);
}

void BlockMask::Blocks::find_needed() {
  needed_offsets.assign(1, 0);
  std::vector<std::int64_t> changes;  // of the number of runs that a block is in
  for (std::int64_t n = 0; n < sizes.batch * sizes.num_q_heads; ++n) {
    const std::int64_t first = offsets[n * q_blocks()], end = offsets[(n + 1) * q_blocks()];
    if (first < end) changes.assign(static_cast<std::size_t>(kv_blocks() + 1), 0);
    for (std::int64_t run = first; run < end; ++run) {
      ++changes[runs[run].begin];
      --changes[runs[run].end];
    }
    std::int64_t in_runs = 0;
    for (std::int64_t block = 0; first < end && block <= kv_blocks(); ++block) {
      const bool before = in_runs > 0;
      in_runs += changes[block];
      if (!before && in_runs > 0) needed.push_back({block, block});
      if (before && in_runs == 0) needed.back().end = block;
    }
    needed_offsets.push_back(static_cast<std::int64_t>(needed.size()));
  }
}

BlockMask BlockMask::Blocks::cropped(std::int64_t batch, std::int64_t kv_len) const {
  auto part = std::make_shared<Blocks>();
  part->sizes = sizes;
  part->sizes.batch = 1;
  part->sizes.kv_len = kv_len;
  part->exact = exact;
  part->stands_for_mask_mod = stands_for_mask_mod;
  part->stands_for_mask = stands_for_mask;
  if (exact) {
    part->sets = {
        cropped_sets(sets[sizes.batch == 1 ? 0 : static_cast<std::size_t>(batch)], kv_len)};
  }
  const std::int64_t columns = part->kv_blocks();
  part->counts.empty = part->rows() * columns;
  for (std::int64_t head = 0; head < sizes.num_q_heads; ++head) {
    for (std::int64_t q_block = 0; q_block < q_blocks(); ++q_block) {
      for (BlockRun run : runs_of(batch, head, q_block)) {
        run.end = std::min(run.end, columns);
        if (run.begin >= run.end) break;
        part->runs.push_back(run);
        (run.kind == BlockKind::full ? part->counts.full : part->counts.partial) +=
            run.end - run.begin;
      }
      part->offsets.push_back(static_cast<std::int64_t>(part->runs.size()));
    }
  }
  part->counts.empty -= part->counts.full + part->counts.partial;
  part->find_needed();
  return BlockMask(std::move(part));
}

BlockMask::BlockMask(std::shared_ptr<const Blocks> blocks) noexcept : blocks_(std::move(blocks)) {}

const BlockMaskSizes& BlockMask::sizes() const noexcept { return blocks_->sizes; }
std::int64_t BlockMask::q_blocks() const noexcept { return blocks_->q_blocks(); }
std::int64_t BlockMask::kv_blocks() const noexcept { return blocks_->kv_blocks(); }
const BlockMask::Counts& BlockMask::counts() const noexcept { return blocks_->counts; }
std::optional<double> BlockMask::density() const noexcept { return blocks_->density; }
bool BlockMask::exact() const noexcept { return blocks_->exact; }
bool BlockMask::stands_for_mask_mod() const noexcept { return blocks_->stands_for_mask_mod; }
bool BlockMask::stands_for_mask() const noexcept { return blocks_->stands_for_mask; }

BlockKind BlockMask::kind(std::int64_t batch, std::int64_t q_head, std::int64_t q_block,
                          std::int64_t kv_block) const {
  require_index("batch", batch, blocks_->sizes.batch);
  require_index("q_head", q_head, blocks_->sizes.num_q_heads);
  require_within("q_block", q_block, 0, q_blocks() - 1, "q_blocks - 1");
  require_within("kv_block", kv_block, 0, kv_blocks() - 1, "kv_blocks - 1");
  const std::span<const BlockRun> runs = blocks_->runs_of(batch, q_head, q_block);
  const auto run = std::partition_point(
      runs.begin(), runs.end(), [kv_block](const BlockRun& each) { return each.end <= kv_block; });
  return run == runs.end() || kv_block < run->begin ? BlockKind::empty : run->kind;
}

void BlockMask::visible_keys(const KeyRun& run, bool* visible) const {
  require_index("batch", run.batch, blocks_->sizes.batch);
  require_index("q_head", run.q_head, blocks_->sizes.num_q_heads);
  require_within("q_index", run.q_index, 0, blocks_->sizes.q_len - 1, "q_len - 1");
  require_within("key_begin", run.key_begin, 0, blocks_->sizes.kv_len, "kv_len");
  require_within("count", run.count, 0, blocks_->sizes.kv_len - run.key_begin,
                 "the keys from key_begin on");
  std::fill_n(visible, run.count, false);
  blocks_->for_each_run({run.batch, run.q_head, run.q_index},
                        {run.key_begin, run.key_begin + run.count}, [&](KeyRange keys, BlockKind) {
                          std::fill_n(visible + (keys.begin - run.key_begin), keys.size(), true);
                        });
}

}  // namespace attn
