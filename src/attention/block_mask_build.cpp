#include "attention/block_mask_build.hpp"

#include <fmt/format.h>

#include <numeric>

#include "tensor/rounding.hpp"

namespace attn::detail {

void require_block_mask_sizes(const BlockMaskSizes& sizes) {
  require_positive("block.q", sizes.block.q);
  require_positive("block.kv", sizes.block.kv);
  require_shape("the block mask [batch, num_q_heads, q_len, kv_len]",
                {sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.kv_len});
}

BlockRow::BlockRow(const BlockMaskSizes& sizes, std::int64_t index, std::int64_t kv_blocks)
    : sizes_(sizes),
      index_(index),
      visible_(static_cast<std::size_t>(kv_blocks)),
      kinds_(visible_.size(), BlockKind::empty) {
  const std::int64_t q_blocks = divide_up(sizes.q_len, sizes.block.q);
  batch_ = index / q_blocks / sizes.num_q_heads;
  q_head_ = index / q_blocks % sizes.num_q_heads;
  q_begin_ = index % q_blocks * sizes.block.q;
  q_end_ = q_begin_ + std::min(sizes.block.q, sizes.q_len - q_begin_);
}

std::int64_t BlockRow::pairs_of_block(std::int64_t kv_block) const noexcept {
  const std::int64_t first = kv_block * sizes_.block.kv;
  return (q_end_ - q_begin_) * std::min(sizes_.block.kv, sizes_.kv_len - first);
}

void BlockRow::set_full(std::int64_t kv_block) noexcept {
  kinds_[kv_block] = BlockKind::full;
  visible_[kv_block] = pairs_of_block(kv_block);
}

void BlockRow::classify_by_counts() {
  for (std::int64_t block = 0; block < static_cast<std::int64_t>(kinds_.size()); ++block) {
    const std::int64_t visible = visible_[block];
    kinds_[block] = visible == 0                       ? BlockKind::empty
                    : visible == pairs_of_block(block) ? BlockKind::full
                                                       : BlockKind::partial;
  }
}

std::int64_t BlockRow::visible_pairs() const noexcept {
  return std::accumulate(visible_.begin(), visible_.end(), std::int64_t{0});
}

std::vector<BlockRun> BlockRow::runs() const {
  std::vector<BlockRun> runs;
  const auto count = static_cast<std::int64_t>(kinds_.size());
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    const BlockKind kind = kinds_[begin];
    while (end < count && kinds_[end] == kind) ++end;
    if (kind != BlockKind::empty) runs.push_back({begin, end, kind});
  }
  return runs;
}

void append_rows(const std::vector<std::vector<BlockRun>>& rows, BlockMask::Blocks& blocks) {
  BlockMask::Counts& counts = blocks.counts;
  for (const std::vector<BlockRun>& row : rows) {
    blocks.runs.insert(blocks.runs.end(), row.begin(), row.end());
    blocks.offsets.push_back(static_cast<std::int64_t>(blocks.runs.size()));
    for (const BlockRun& run : row)
      (run.kind == BlockKind::full ? counts.full : counts.partial) += run.end - run.begin;
  }
  counts.empty = blocks.rows() * blocks.kv_blocks() - counts.full - counts.partial;
  blocks.find_needed();
}

double share_of_pairs(double visible, const BlockMaskSizes& sizes) {
  const double pairs = static_cast<double>(sizes.batch) * static_cast<double>(sizes.num_q_heads) *
                       static_cast<double>(sizes.q_len) * static_cast<double>(sizes.kv_len);
  return pairs > 0 ? visible / pairs : 0;
}

}  // namespace attn::detail
