// How block masks are made: each row of blocks is classified by itself, in parallel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention/block_mask.hpp"
#include "tensor/checks.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

/// Throws unless the sizes are possible.
void require_block_mask_sizes(const BlockMaskSizes& sizes);

/// A block of queries of a head against all keys.
class BlockRow {
 public:
  BlockRow(const BlockMaskSizes& sizes, std::int64_t index, std::int64_t kv_blocks);

  const BlockMaskSizes& sizes() const noexcept { return sizes_; }
  std::int64_t index() const noexcept { return index_; }
  std::int64_t batch() const noexcept { return batch_; }
  std::int64_t q_head() const noexcept { return q_head_; }
  std::int64_t q_begin() const noexcept { return q_begin_; }
  std::int64_t q_end() const noexcept { return q_end_; }

  /// Adds pairs to the counts of visible ones: count_of(keys) of each block's part of a range.
  template <class CountOf>
  void add(KeyRange range, CountOf count_of) {
    const std::int64_t width = sizes_.block.kv;
    for (std::int64_t block = range.begin / width; !range.empty(); ++block) {
      const std::int64_t end = std::min(saturating_product(block + 1, width), range.end);
      visible_[block] += count_of(KeyRange{range.begin, end});
      range.begin = end;
    }
  }
  /// The same for one block.
  void add(std::int64_t kv_block, std::int64_t pairs) noexcept { visible_[kv_block] += pairs; }
  /// Sets the kinds of the blocks from the counts.
  void classify_by_counts();

  void set_full(std::int64_t kv_block) noexcept;
  void set_partial(std::int64_t kv_block) noexcept { kinds_[kv_block] = BlockKind::partial; }

  const std::vector<BlockKind>& kinds() const noexcept { return kinds_; }
  std::int64_t visible_pairs() const noexcept;
  std::vector<BlockRun> runs() const;

 private:
  std::int64_t pairs_of_block(std::int64_t kv_block) const noexcept;

  const BlockMaskSizes& sizes_;
  std::int64_t index_, batch_, q_head_, q_begin_, q_end_;
  std::vector<std::int64_t> visible_;  // pairs of each block
  std::vector<BlockKind> kinds_;
};

/// Appends the rows in order, and counts their blocks.
void append_rows(const std::vector<std::vector<BlockRun>>& rows, BlockMask::Blocks& blocks);
double share_of_pairs(double visible, const BlockMaskSizes& sizes);

/// Calls classify(BlockRow&), which sets the kinds of its blocks, for each row of blocks.
template <class Classify>
BlockMask build_block_mask(BlockMask::Blocks&& blocks, const Threads& threads, Classify classify) {
  auto made = std::make_shared<BlockMask::Blocks>(std::move(blocks));
  const std::int64_t count = made->rows(), kv_blocks = made->kv_blocks();
  std::vector<std::vector<BlockRun>> rows(static_cast<std::size_t>(count));
  std::vector<double> visible(rows.size());
  parallel_for(threads, count, [&](std::int64_t index) {
    BlockRow row(made->sizes, index, kv_blocks);
    classify(row);
    rows[index] = row.runs();
    visible[index] = static_cast<double>(row.visible_pairs());
  });
  append_rows(rows, *made);
  double pairs = 0;
  for (const double of_row : visible) pairs += of_row;
  // Nobody has said which pairs of listed partial blocks are visible.
  const bool listed = made->stands_for_mask_mod && made->stands_for_mask;
  if (!listed || made->counts.partial == 0) made->density = share_of_pairs(pairs, made->sizes);
  return BlockMask(std::move(made));
}

}  // namespace attn::detail
