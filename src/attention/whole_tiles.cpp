#include "attention/whole_tiles.hpp"

#include <algorithm>

#include "onednn/isa.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {
namespace {

constexpr float log2e = 1.44269504088896341f;

}  // namespace

OnednnSupport onednn_support(ScoreMatmul asked) {
  if (asked == ScoreMatmul::built_in || !onednn::available()) return {};
  return {.available = true,
          .has_amx = onednn::has_amx(),
          .f32_panels = onednn::Matmul::reads_panels(DType::f32),
          .bf16_panels = onednn::Matmul::reads_panels(DType::bf16)};
}

namespace {

/// Fewer keys than these are not worth a product of their own.
constexpr std::int64_t least_keys = 64;

/// Whether the padding costs less than what is gained.
bool mostly_filled(std::int64_t count, std::int64_t padded) noexcept {
  return 8 * padded <= 9 * count;
}

std::int64_t padded_rows(std::int64_t rows) noexcept { return round_up(rows, onednn_row_step); }

}  // namespace

TileMatmuls::TileMatmuls(const CallPlan& plan) : plan_(plan) {
  pairs_.push_back(make(padded_rows(std::min(plan.packed.rows, plan.onednn_rows)),
                        plan.onednn_keys(std::min(plan.sizes.kv_len, plan.packed.kv_block))));
}

TileMatmuls::Pair TileMatmuls::make(std::int64_t rows, std::int64_t keys) const {
  const Blocking& packed = plan_.packed;
  const bool panels = plan_.packed_layout == PackedLayout::onednn_panels;
  const DType operands = packed.vnni_factor == 2 ? DType::bf16 : DType::f32;
  Pair pair{.rows = rows, .keys = keys};
  pair.scores = onednn::Matmul::shared({.m = rows,
                                        .n = keys,
                                        .k = packed.key_depth * packed.vnni_factor,
                                        .b_in_panels = panels,
                                        .b_stride = panels ? 0 : packed.kv_block,
                                        .operands = operands});
  if (plan_.needs_full_rows) return pair;
  pair.values = onednn::Matmul::shared({.m = rows,
                                        .n = packed.value_width,
                                        .k = keys,
                                        .b_in_panels = !plan_.values_in_rows,
                                        .accumulate = true,
                                        .operands = operands});
  return pair;
}

TileMatmuls::Pair TileMatmuls::find(std::int64_t rows, std::int64_t keys) {
  const std::lock_guard lock(mutex_);
  for (const Pair& pair : pairs_) {
    if (pair.rows == rows && pair.keys == keys) return pair;
  }
  pairs_.push_back(make(rows, keys));
  return pairs_.back();
}

WholeTiles::WholeTiles(const CallContext& context, const Packer& packer,
                       const ThreadScratch& scratch)
    : context_(context),
      packer_(packer),
      scratch_(scratch),
      non_finite_(context, context.plan().packed, scratch.staging) {}

std::int64_t WholeTiles::keys_of(const QueryBlock& rows, std::int64_t block) const noexcept {
  const CallPlan& plan = context_.plan();
  if (plan.onednn_rows == 0) return 0;
  if (rows.first > 0 && !mostly_filled(rows.count, padded_rows(rows.count))) return 0;
  const std::int64_t begin = block * plan.packed.kv_block;
  const KeyRange keys{
      begin, std::min(begin + plan.packed.kv_block, context_.layout.kv_len(rows.head.batch))};
  const KeyRange seen = intersection(rows.visible_to_all, keys);
  if (seen.empty() || seen.begin > keys.begin) return 0;
  const bool all = seen == keys;
  const std::int64_t count = all ? seen.size() : round_down(seen.size(), onednn_key_step);
  const std::int64_t multiplied = plan.onednn_keys(count);
  if (all && block == 0) return count;
  return count >= least_keys && mostly_filled(count, multiplied) ? count : 0;
}

WholeTiles::Calls& WholeTiles::calls_of(std::int64_t rows, std::int64_t keys) {
  for (Calls& calls : calls_) {
    if (calls.rows == rows && calls.keys == keys) return calls;
  }
  const TileMatmuls::Pair pair = context_.call.tile_matmuls->find(rows, keys);
  calls_.push_back({rows, keys, onednn::MatmulCall(pair.scores), {}});
  if (pair.values) calls_.back().values.emplace(pair.values);
  return calls_.back();
}

void WholeTiles::multiply_keys(const QueryBlock& rows, std::int64_t block, std::int64_t keys,
                               const PackedHead& packed, const float* queries) {
  padded_ = context_.plan().onednn_keys(keys);
  current_ = &calls_of(padded_rows(rows.count), padded_);
  current_->scores.execute(queries, packer_.keys(packed, block, 0).data, scratch_.score_tile);
}

void WholeTiles::find_scores(QueryTile& tile) const noexcept {
  tile.score_stride = padded_;
  tile.scores = scratch_.score_tile + tile.first_row * tile.score_stride;
}

void WholeTiles::exponentiate(QueryTile& tile, const PackedHead& packed, std::int64_t block,
                              const SoftmaxStates& states) const {
  const bool finite = packed.is_finite(block);
  if (!finite) NonFiniteValues::note_visible(tile);
  const kernels::Arithmetic& arithmetic = *context_.call.packed_arithmetic;
  const std::int64_t vnni_factor = arithmetic.vnni_factor, stride = padded_ / vnni_factor;
  float* const probabilities = scratch_.score_tile + tile.first_row * stride;
  const std::int64_t last =
      tile.visible_range.empty() ? 0 : round_up(tile.visible_range.end, arithmetic.chunk_keys);
  if (last > 0) {
    const kernels::SoftmaxTile softmax{
        .scores = tile.scores,
        .stride = tile.score_stride,
        .rows = tile.rows,
        .begin = tile.begin,
        .end = tile.end,
        .first = 0,
        .last = last,
        .scale = context_.scores.remaining_scale() * log2e,
        .maxima = nullptr,
        .row_max = states.row_max,
        .row_sum = states.row_sum,
        .values = {},
        .value_end = 0,
        .out = states.out,
        .out_stride = context_.plan().packed.value_width,
        .columns = context_.plan().packed.value_width,
    };
    if (vnni_factor == 1) {
      context_.kernels().softmax_rows(softmax);
    } else {
      arithmetic.softmax_to_pairs(softmax, probabilities, stride);
    }
  }
  tile.scores = probabilities;
  tile.score_stride = stride;
  for (std::int64_t r = 0; r < tile.rows; ++r)
    std::fill_n(tile.row(r) + last / vnni_factor, stride - last / vnni_factor, 0.f);
  if (!finite && last > 0) non_finite_.add(tile, states.out);
}

void WholeTiles::multiply_values(const PackedHead& packed, std::int64_t block, float* out) {
  current_->values->execute(scratch_.score_tile, packer_.values(packed, block, 0).data, out);
}

}  // namespace attn::detail
