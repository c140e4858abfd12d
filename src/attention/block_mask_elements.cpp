// Block masks of mask_mod and of dense masks: all pairs are read once, a run of keys of a query
// after the other, and the visible ones of each block are counted.
#include <attn/block_mask.hpp>

#include <fmt/format.h>

#include <cstring>

#include "attention/block_mask_build.hpp"
#include "attention/problem.hpp"
#include "iterate/execution.hpp"
#include "tensor/rounding.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr std::int64_t run_keys = 8192;

/// The number of bytes that are 1; all others are 0. Eight are added at a time, each in its own
/// byte of a word.
std::int64_t count_ones(const std::uint8_t* bytes, std::int64_t count) {
  constexpr std::int64_t word = 8, most_words = 255;
  constexpr std::uint64_t even_bytes = 0x00ff00ff00ff00ff, one_each = 0x0001000100010001;
  std::int64_t ones = 0;
  while (count >= word) {
    const std::int64_t words = std::min(count / word, most_words);
    std::uint64_t sums = 0;
    for (std::int64_t n = 0; n < words; ++n) {
      std::uint64_t eight;
      std::memcpy(&eight, bytes + n * word, sizeof eight);
      sums += eight;
    }
    const std::uint64_t pairs = (sums & even_bytes) + (sums >> 8 & even_bytes);
    ones += static_cast<std::int64_t>(pairs * one_each >> 48);
    bytes += words * word;
    count -= words * word;
  }
  for (std::int64_t n = 0; n < count; ++n) ones += bytes[n];
  return ones;
}

/// Classifies a row of blocks. fill(q_index, keys, visible) writes 0 or 1 for each key.
template <class Fill>
void classify_elements(BlockRow& row, Fill fill) {
  std::vector<std::uint8_t> visible(
      static_cast<std::size_t>(std::min(run_keys, row.sizes().kv_len)));
  for (std::int64_t q_index = row.q_begin(); q_index < row.q_end(); ++q_index) {
    for (std::int64_t begin = 0; begin < row.sizes().kv_len; begin += run_keys) {
      const KeyRange keys{begin, std::min(begin + run_keys, row.sizes().kv_len)};
      fill(q_index, keys, visible.data());
      row.add(keys, [&](KeyRange part) {
        return count_ones(visible.data() + (part.begin - begin), part.size());
      });
    }
  }
  row.classify_by_counts();
}

/// visible[n] = whether element n does not have the bits that hide.
template <class Bits>
void compare(const std::byte* mask, std::int64_t stride, std::int64_t count, Bits hidden,
             std::uint8_t* visible) {
  const auto* const elements = reinterpret_cast<const Bits*>(mask);
  if (stride == 1) {
    for (std::int64_t n = 0; n < count; ++n) visible[n] = elements[n] != hidden;
  } else {
    for (std::int64_t n = 0; n < count; ++n) visible[n] = elements[n * stride] != hidden;
  }
}

/// false, or -inf, hides. So do keys that a short mask does not have.
void read_mask(const DenseMask& mask, const std::byte* row, KeyRange keys, std::uint8_t* visible) {
  constexpr std::uint32_t f32_infinity = 0xff800000;
  constexpr std::uint16_t bf16_infinity = 0xff80, f16_infinity = 0xfc00;
  const std::int64_t stride = mask.strides[3];
  const std::int64_t count = intersection(keys, {0, mask.kv_len}).size();
  const std::byte* const first = row + keys.begin * mask.key_stride_in_bytes();
  switch (mask.dtype) {
    case DType::f32: compare(first, stride, count, f32_infinity, visible); break;
    case DType::bf16: compare(first, stride, count, bf16_infinity, visible); break;
    case DType::f16: compare(first, stride, count, f16_infinity, visible); break;
    default: compare(first, stride, count, std::uint8_t{0}, visible);
  }
  std::fill_n(visible + count, keys.size() - count, std::uint8_t{0});
}

}  // namespace

BlockMask BlockMask::from_mask_mod(const MaskMod& mask_mod, const BlockMaskSizes& sizes,
                                   const MaskModContext& context, const Execution& execution) {
  if (!mask_mod) reject("mask_mod is empty");
  require_block_mask_sizes(sizes);
  require_positive("group_size", context.group_size);
  if (sizes.num_q_heads != 1 && sizes.num_q_heads % context.group_size != 0) {
    reject(fmt::format("group_size is {}; num_q_heads = {} needs to be a multiple of it",
                       context.group_size, sizes.num_q_heads));
  }
  const std::int64_t offset = context.q_position.offset.value_or(sizes.kv_len - sizes.q_len);
  if (offset < -most_elements || offset > most_elements)
    reject(fmt::format("q_position is {}; it needs to lie within +-2^48", offset));
  const auto classify = [&](BlockRow& row) {
    classify_elements(row, [&](std::int64_t q_index, KeyRange keys, std::uint8_t* visible) {
      static_assert(sizeof(bool) == sizeof(std::uint8_t));
      mask_mod({row.batch(), row.q_head(), row.q_head() / context.group_size, q_index,
                q_index + offset, keys.begin, keys.size()},
               reinterpret_cast<bool*>(visible));
    });
  };
  Blocks blocks;
  blocks.sizes = sizes;
  blocks.stands_for_mask_mod = true;
  return build_block_mask(std::move(blocks), resolve(execution).threads, classify);
}

BlockMask BlockMask::from_mask(const TensorView& mask, const BlockMaskSizes& sizes,
                               const Execution& execution) {
  require_block_mask_sizes(sizes);
  if (mask.absent()) reject("mask is missing");
  require_data("mask", mask);
  Sizes call;
  call.batch = sizes.batch;
  call.num_q_heads = sizes.num_q_heads;
  call.q_len = sizes.q_len;
  call.kv_len = sizes.kv_len;
  require_mask_fits(mask, call);
  const DenseMask dense = dense_mask(mask, {{}, call}, MaskKeys::first);
  Blocks blocks;
  blocks.sizes = sizes;
  blocks.sizes.batch = mask.rank() == 4 ? mask.shape[0] : 1;
  blocks.sizes.num_q_heads = mask.rank() >= 3 ? mask.shape[mask.rank() - 3] : 1;
  blocks.stands_for_mask = true;
  return build_block_mask(std::move(blocks), resolve(execution).threads, [&](BlockRow& row) {
    classify_elements(row, [&](std::int64_t q_index, KeyRange keys, std::uint8_t* visible) {
      read_mask(dense, dense.element(row.batch(), row.q_head(), q_index, 0), keys, visible);
    });
  });
}

}  // namespace attn
