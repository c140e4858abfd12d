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

TileMatmuls make_matmuls(const CallPlan& plan, std::int64_t rows, std::int64_t keys) {
  const Blocking& packed = plan.packed;
  const bool panels = plan.packed_layout == PackedLayout::onednn_panels;
  const DType operands = packed.vnni_factor == 2 ? DType::bf16 : DType::f32;
  TileMatmuls matmuls{.rows = rows, .keys = keys, .scores = {}, .values = {}};
  matmuls.scores = onednn::Matmul::shared({.m = rows,
                                           .n = keys,
                                           .k = packed.key_depth * packed.vnni_factor,
                                           .b_in_panels = panels,
                                           .b_stride = panels ? 0 : packed.kv_block,
                                           .operands = operands});
  if (plan.needs_full_rows) return matmuls;
  matmuls.values = onednn::Matmul::shared({.m = rows,
                                           .n = packed.value_width,
                                           .k = keys,
                                           .b_in_panels = !plan.values_in_rows,
                                           .accumulate = true,
                                           .operands = operands});
  return matmuls;
}

/// Whether the padding costs less than what is gained.
bool mostly_filled(std::int64_t count, std::int64_t padded) noexcept {
  return 8 * padded <= 9 * count;
}

std::int64_t padded_rows(std::int64_t rows) noexcept { return round_up(rows, onednn_row_step); }

}  // namespace

std::vector<TileMatmuls> tile_matmuls(const CallPlan& plan) {
  std::vector<TileMatmuls> matmuls;
  if (plan.onednn_rows == 0) return matmuls;
  const std::int64_t rows = plan.packed.rows, kv_len = plan.sizes.kv_len;
  const std::int64_t kv_block = plan.packed.kv_block;
  const auto add = [&](std::int64_t some_rows, std::int64_t keys) {
    if (some_rows == 0 || keys == 0) return;
    matmuls.push_back(make_matmuls(plan, padded_rows(some_rows), plan.onednn_keys(keys)));
  };
  for (const std::int64_t some : {std::min(rows, plan.onednn_rows), rows % plan.onednn_rows}) {
    if (matmuls.size() > 0 && some == matmuls.front().rows) continue;
    add(some, std::min(kv_len, kv_block));
    if (kv_len > kv_block) add(some, kv_len % kv_block);
  }
  return matmuls;
}

WholeTiles::WholeTiles(const CallContext& context, const Packer& packer,
                       const ThreadScratch& scratch)
    : context_(context),
      packer_(packer),
      scratch_(scratch),
      non_finite_(context, context.plan().packed, scratch.staging) {}

std::int64_t WholeTiles::keys_of(const QueryBlock& rows, std::int64_t block) const noexcept {
  const std::int64_t begin = block * context_.plan().packed.kv_block;
  return std::min(context_.plan().packed.kv_block, context_.layout.kv_len(rows.head.batch) - begin);
}

bool WholeTiles::has(const QueryBlock& rows, std::int64_t block) const noexcept {
  const CallPlan& plan = context_.plan();
  if (plan.onednn_rows == 0) return false;
  const std::int64_t count = keys_of(rows, block), begin = block * plan.packed.kv_block;
  const KeyRange keys{begin, begin + count};
  if (keys.empty() || intersection(rows.visible_to_all, keys) != keys) return false;
  return (rows.first == 0 || mostly_filled(rows.count, padded_rows(rows.count))) &&
         (block == 0 || mostly_filled(count, plan.onednn_keys(count)));
}

WholeTiles::Calls& WholeTiles::calls_of(std::int64_t rows, std::int64_t keys) {
  for (Calls& calls : calls_) {
    if (calls.rows == rows && calls.keys == keys) return calls;
  }
  TileMatmuls found{};
  for (const TileMatmuls& known : context_.call.tile_matmuls) {
    if (known.rows == rows && known.keys == keys) found = known;
  }
  if (!found.scores) found = make_matmuls(context_.plan(), rows, keys);
  calls_.push_back({rows, keys, onednn::MatmulCall(found.scores), {}});
  if (found.values) calls_.back().values.emplace(found.values);
  return calls_.back();
}

void WholeTiles::multiply_keys(const QueryBlock& rows, std::int64_t block, const PackedHead& packed,
                               const float* queries) {
  keys_ = context_.plan().onednn_keys(keys_of(rows, block));
  current_ = &calls_of(padded_rows(rows.count), keys_);
  current_->scores.execute(queries, packer_.keys(packed, block, 0).data, scratch_.score_tile);
}

void WholeTiles::find_scores(QueryTile& tile) const noexcept {
  tile.score_stride = keys_;
  tile.scores = scratch_.score_tile + tile.first_row * tile.score_stride;
}

void WholeTiles::exponentiate(QueryTile& tile, const PackedHead& packed, std::int64_t block,
                              const SoftmaxStates& states) const {
  const bool finite = packed.is_finite(block);
  if (!finite) NonFiniteValues::note_visible(tile);
  const kernels::Arithmetic& arithmetic = *context_.call.packed_arithmetic;
  const std::int64_t vnni_factor = arithmetic.vnni_factor, stride = keys_ / vnni_factor;
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
