#include "attention/scores.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/block_mask.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {
namespace {

/// Whether a scale can be folded into the exponent: it must keep the order of the scores, and must
/// not overflow when it is multiplied by log2(e).
bool folds(float scale) { return scale > 0 && std::isnormal(scale) && std::isfinite(scale * 2); }

/// A score_mod may turn -inf into a number, but it must not reveal what the mask hides.
void hide_again(const float* additive_mask, std::int64_t count, float* scores) {
  constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  for (std::int64_t n = 0; n < count; ++n)
    scores[n] = additive_mask[n] == minus_infinity ? minus_infinity : scores[n];
}

}  // namespace

RowScores::RowScores(const Problem& problem, const AttentionTensors& tensors,
                     const AttentionOptions& options, const kernels::Kernels& kernels) noexcept
    : problem_(problem),
      tensors_(tensors),
      options_(options),
      kernels_(kernels),
      mask_(dense_mask(tensors, problem)) {
  const bool softmax = problem.normalizer.kind() == Normalizer::Kind::softmax;
  transforms_ = !softmax || problem.softcap || !tensors.alibi_slopes.absent() || additive() ||
                options.score_mod || !folds(problem.softmax_scale);
}

KeyRun RowScores::run_of(const QueryRow& row, KeyRange keys) noexcept {
  return {row.batch, row.q_head, row.kv_head, row.q_index, row.q_position, keys.begin, keys.size()};
}

void RowScores::scan_mask(MaskRow* rows, const Threads& threads) {
  parallel_for(threads, mask_.rows(), [&](std::int64_t n) { rows[n] = scan_row(mask_.row(n)); });
  rows_ = rows;
}

/// Scans piece by piece. Once it is known that the mask changes something, the rest is left alone.
MaskRow RowScores::scan_row(const std::byte* row) const noexcept {
  constexpr std::int64_t piece = 1024;
  alignas(64) float floats[piece];
  alignas(64) std::uint8_t bytes[piece];
  const std::int64_t stride = mask_.key_stride_in_bytes();
  const std::int64_t columns = mask_.columns;
  const std::int64_t length = stride == 0 ? std::min<std::int64_t>(columns, 1) : columns;
  MaskRow found{0, 0, true};
  for (std::int64_t first = 0; first < length && found.plain; first += piece) {
    const std::int64_t count = std::min(piece, length - first);
    const std::byte* const from = row + first * stride;
    kernels::MaskScan scan{};
    if (!mask_.boolean()) {
      const Row mask{const_cast<std::byte*>(from), mask_.dtype, mask_.strides[3]};
      scan = kernels_.scan_additive(as_floats(mask, count, kernels_, floats), count);
    } else if (stride == 1) {
      scan = kernels_.scan_boolean(reinterpret_cast<const std::uint8_t*>(from), count);
    } else {
      for (std::int64_t n = 0; n < count; ++n)
        bytes[n] = std::to_integer<std::uint8_t>(from[n * stride]);
      scan = kernels_.scan_boolean(bytes, count);
    }
    if (scan.begin >= scan.end) continue;
    const bool nothing_yet = found.end == 0;
    found.plain = scan.plain && (nothing_yet || found.end == first + scan.begin);
    if (nothing_yet) found.begin = first + scan.begin;
    found.end = found.plain && stride != 0 ? first + scan.end : columns;
  }
  return found;
}

MaskRow RowScores::known(const QueryRow& row, KeyRange keys) const noexcept {
  const KeyRange covered = mask_.covered(row.batch, keys);
  if (covered.empty()) return {keys.begin, keys.end, true};
  if (rows_ == nullptr || covered.begin > keys.begin) return {keys.begin, keys.end, false};
  const MaskRow& found = rows_[mask_.row_number(row.batch, row.q_head, row.q_index)];
  const std::int64_t first = mask_.first_key(row.batch);
  const KeyRange left = intersection(keys, {first + found.begin, first + found.end});
  if (left.empty()) return {keys.begin, keys.begin, true};
  return {left.begin, left.end, found.plain};
}

RowScores::Seen RowScores::masked_keys(const QueryRow& row, KeyRange keys,
                                       float* staging) const noexcept {
  const MaskRow left = known(row, keys);
  if (left.plain) return {.keys = {left.begin, left.end}};
  if (mask_.covered(row.batch, keys) != keys) return read_last_keys(row, keys, staging);
  const std::int64_t count = left.end - left.begin;
  const float* const mask = as_floats(mask_row(row, left.begin), count, kernels_, staging);
  const kernels::MaskScan scan = kernels_.scan_additive(mask, count);
  return {.keys = {left.begin + scan.begin, left.begin + scan.end},
          .mask = scan.plain ? nullptr : mask + scan.begin};
}

RowScores::Seen RowScores::read_last_keys(const QueryRow& row, KeyRange keys,
                                          float* staging) const noexcept {
  const KeyRange covered = mask_.covered(row.batch, keys);
  float* const last = std::fill_n(staging, covered.begin - keys.begin, 0.f);
  const float* const mask = as_floats(mask_row(row, covered.begin), covered.size(), kernels_, last);
  if (mask != last) std::copy_n(mask, covered.size(), last);
  const kernels::MaskScan scan = kernels_.scan_additive(staging, keys.size());
  return {.keys = {keys.begin + scan.begin, keys.begin + scan.end},
          .mask = scan.plain ? nullptr : staging + scan.begin};
}

RowScores::Seen RowScores::visible_keys(const QueryRow& row, KeyRange keys,
                                        std::uint8_t* visible) const {
  if (options_.block_mask) return read_blocks(row, keys, visible);
  MaskRow left{keys.begin, keys.end, true};
  if (boolean()) left = known(row, keys);
  const KeyRange range{left.begin, left.end};
  if (range.empty() || (left.plain && !options_.mask_mod)) return {.keys = range};
  return read_visible(row, range, left.plain, visible + (range.begin - keys.begin));
}

/// A boolean mask whose elements are neighbors is scanned where it lies.
RowScores::Seen RowScores::read_visible(const QueryRow& row, KeyRange keys, bool plain_mask,
                                        std::uint8_t* visible) const {
  const std::int64_t count = keys.size();
  const std::uint8_t* scanned = visible;
  const bool in_place = !options_.mask_mod && mask_.key_stride_in_bytes() == 1 &&
                        mask_.covered(row.batch, keys) == keys;
  if (in_place) {
    scanned = reinterpret_cast<const std::uint8_t*>(mask_element(row, keys.begin));
  } else {
    ask(row, keys, {.mask_mod = static_cast<bool>(options_.mask_mod), .mask = !plain_mask},
        visible);
  }
  const kernels::MaskScan scan = kernels_.scan_boolean(scanned, count);
  if (in_place && !scan.plain && scan.begin < scan.end)
    std::memcpy(visible, scanned, static_cast<std::size_t>(count));
  return {.keys = {keys.begin + scan.begin, keys.begin + scan.end}, .hides = !scan.plain};
}

/// At least one of the masks is asked.
void RowScores::ask(const QueryRow& row, KeyRange keys, Asked asked, std::uint8_t* visible) const {
  if (asked.mask_mod) {
    static_assert(sizeof(bool) == sizeof(std::uint8_t));
    options_.mask_mod(run_of(row, keys), reinterpret_cast<bool*>(visible));
  }
  if (!asked.mask) return;
  if (!asked.mask_mod) std::memset(visible, 1, static_cast<std::size_t>(keys.size()));
  const KeyRange covered = mask_.covered(row.batch, keys);
  if (covered.empty()) return;
  visible += covered.begin - keys.begin;
  const std::int64_t stride = mask_.key_stride_in_bytes();
  const std::byte* const mask = mask_element(row, covered.begin);
  for (std::int64_t n = 0; n < covered.size(); ++n) {
    const bool seen = std::to_integer<std::uint8_t>(mask[n * stride]) != 0;
    visible[n] = static_cast<std::uint8_t>(seen && visible[n] != 0);
  }
}

RowScores::Asked RowScores::asked_in(BlockKind kind) const noexcept {
  const BlockMask::Blocks& blocks = options_.block_mask->blocks();
  const bool full = kind == BlockKind::full;
  return {.mask_mod = options_.mask_mod && !(full && blocks.stands_for_mask_mod),
          .mask = boolean() && !(full && blocks.stands_for_mask)};
}

/// Full blocks that nobody is asked about are not even noted as visible, and empty ones between
/// others are hidden.
RowScores::Seen RowScores::read_blocks(const QueryRow& row, KeyRange keys,
                                       std::uint8_t* visible) const {
  const BlockMask::Blocks& blocks = options_.block_mask->blocks();
  const BlockMaskRow block_row{row.batch, row.q_head, row.q_index};
  const KeyRange range = blocks.nonempty_range(block_row, keys);
  if (range.empty()) return {.keys = {keys.begin, keys.begin}};
  bool plain = true;
  std::int64_t next = range.begin;
  blocks.for_each_run(block_row, range, [&](KeyRange run, BlockKind kind) {
    const Asked asked = asked_in(kind);
    plain = plain && run.begin == next && !asked.mask_mod && !asked.mask;
    next = run.end;
  });
  if (plain) return {.keys = range};
  std::uint8_t* const first = visible + (range.begin - keys.begin);
  std::memset(first, 0, static_cast<std::size_t>(range.size()));
  blocks.for_each_run(block_row, range, [&](KeyRange run, BlockKind kind) {
    const Asked asked = asked_in(kind);
    std::uint8_t* const of_run = first + (run.begin - range.begin);
    if (asked.mask_mod || asked.mask)
      ask(row, run, asked, of_run);
    else
      std::memset(of_run, 1, static_cast<std::size_t>(run.size()));
  });
  const kernels::MaskScan scan = kernels_.scan_boolean(first, range.size());
  return {.keys = {range.begin + scan.begin, range.begin + scan.end}, .hides = !scan.plain};
}

void RowScores::transform(const QueryRow& row, KeyRange keys, const float* additive_mask,
                          float* scores, const SavedScores& saved) const {
  const std::int64_t count = keys.size();
  kernels_.scale(scores, count, problem_.softmax_scale, scores);
  if (problem_.softcap) kernels_.softcap(scores, count, *problem_.softcap);
  if (saved.capped != nullptr) std::copy_n(scores, count, saved.capped);
  if (!tensors_.alibi_slopes.absent()) {
    const auto* slopes = static_cast<const float*>(tensors_.alibi_slopes.data);
    kernels_.alibi(scores, count, slopes[row.q_head * tensors_.alibi_slopes.strides[0]],
                   row.q_position - keys.begin);
  }
  if (additive_mask != nullptr) kernels_.add_mask(scores, count, additive_mask);
  if (!options_.score_mod) return;
  if (saved.before_mod != nullptr) std::copy_n(scores, count, saved.before_mod);
  options_.score_mod(run_of(row, keys), scores);
  if (additive_mask != nullptr) hide_again(additive_mask, count, scores);
}

void RowScores::gradient_before_mod(const QueryRow& row, KeyRange keys, const float* before_mod,
                                    float* gradient) const {
  if (options_.score_mod) options_.score_mod_gradient(run_of(row, keys), before_mod, gradient);
}

void RowScores::gradient_before_softcap(const float* capped, std::int64_t count,
                                        float* gradient) const {
  if (problem_.softcap) kernels_.softcap_gradient(capped, count, *problem_.softcap, gradient);
}

}  // namespace attn::detail
