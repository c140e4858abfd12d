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

KeyRange BlockMask::Blocks::keys_of(const BlockRun& run) const noexcept {
  return {run.begin * sizes.block.kv,
          std::min(saturating_product(run.end, sizes.block.kv), sizes.kv_len)};
}

std::span<const BlockRun> BlockMask::Blocks::runs_of(std::int64_t batch, std::int64_t q_head,
                                                     std::int64_t q_block) const noexcept {
  const std::int64_t entry = sizes.batch == 1 ? 0 : batch;
  const std::int64_t head = sizes.num_q_heads == 1 ? 0 : q_head;
  const std::int64_t row = (entry * sizes.num_q_heads + head) * q_blocks() + q_block;
  return std::span(runs).subspan(static_cast<std::size_t>(offsets[row]),
                                 static_cast<std::size_t>(offsets[row + 1] - offsets[row]));
}

KeyRange BlockMask::Blocks::nonempty_range(const BlockMaskRow& row, KeyRange keys) const noexcept {
  const auto between = [keys](KeyRange first, KeyRange last) {
    return intersection({first.begin, last.end}, keys);
  };
  const auto hull_of = [&](auto ranges, std::int64_t begin, std::int64_t end, auto as_keys) {
    const auto first = std::partition_point(
        ranges.begin(), ranges.end(), [begin](const auto& range) { return range.end <= begin; });
    const auto behind = std::partition_point(
        first, ranges.end(), [end](const auto& range) { return range.begin < end; });
    return first == behind ? KeyRange{keys.begin, keys.begin}
                           : between(as_keys(*first), as_keys(*(behind - 1)));
  };
  if (keys.empty()) return keys;
  if (exact) {
    return hull_of(visible_ranges(row), keys.begin, keys.end,
                   [](const KeyRange& range) { return range; });
  }
  return hull_of(runs_of(row), keys.begin / sizes.block.kv, divide_up(keys.end, sizes.block.kv),
                 [this](const BlockRun& run) { return keys_of(run); });
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
