#include "attention/packed_values.hpp"

#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

constexpr float log2e = 1.44269504088896341f;

}  // namespace

void PackedValues::add(const QueryTile& tile, const PackedHead& packed, std::int64_t block,
                       const SoftmaxStates& states) const {
  const kernels::Arithmetic& arithmetic = *context_.call.packed_arithmetic;
  const std::int64_t value_width = context_.plan().packed.value_width;
  const std::int64_t first = round_down(tile.visible_range.begin, arithmetic.chunk_keys);
  const bool finite = packed.is_finite(block);
  if (!finite) NonFiniteValues::note_visible(tile);
  arithmetic.online_softmax({
      .scores = tile.scores,
      .stride = tile.score_stride,
      .rows = tile.rows,
      .begin = tile.begin,
      .end = tile.end,
      .first = first,
      .last = round_up(tile.visible_range.end, arithmetic.chunk_keys),
      .scale = context_.scores.remaining_scale() * log2e,
      .maxima = tile.maxima,
      .row_max = states.row_max,
      .row_sum = states.row_sum,
      .value_scales = context_.plan().scaled()
                          ? packed.value_scales + block * context_.plan().packed.kv_block
                          : nullptr,
      .values = packer_.values(packed, block, first),
      .value_end = tile.visible_range.end,
      .out = states.out,
      .out_stride = value_width,
      .columns = value_width,
  });
  if (!finite) non_finite_.add(tile, states.out);
}

}  // namespace attn::detail
