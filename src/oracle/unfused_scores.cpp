#include "oracle/unfused_scores.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "oracle/block_answers.hpp"
#include "oracle/extremes.hpp"
#include "oracle/query_rows.hpp"
#include "oracle/unfused_primitives.hpp"

namespace attn::detail {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

KeyRun visible_range(const UnfusedCall& call, const KeyRun& row) {
  const Problem& problem = call.problem;
  const std::int64_t length = kv_length(call.tensors, problem.sizes, row.batch);
  return detail::visible_range(row, problem.causal, problem.window,
                               std::min(length, call.mask.kv_len));
}

/// Applies the scale, or softcap where apply_tanh() went before, and ALiBi.
void scale_and_bias(const UnfusedCall& call, const KeyRun& keys, float* scores) {
  const float factor = call.problem.softcap.value_or(call.problem.softmax_scale);
  for (std::int64_t n = 0; n < keys.count; ++n) scores[n] *= factor;
  if (!call.tensors.alibi_slopes.absent()) {
    const float slope = per_head(call.tensors.alibi_slopes, keys.q_head, 0);
    const std::int64_t distance = keys.q_position - keys.key_begin;
    for (std::int64_t n = 0; n < keys.count; ++n)
      scores[n] -= slope * static_cast<float>(std::abs(distance - n));
  }
}

/// The mask of a run of keys, which was made additive, and who needs to ask it.
struct MaskRun {
  const float* mask;  // of the first key that it has a column for; null: none
  std::int64_t stride;
  bool boolean;
  const BlockAnswers& blocks;
  std::int64_t key_begin;
  std::int64_t first_key;

  float operator[](std::int64_t n) const {
    const std::int64_t key = key_begin + n;
    if (key < first_key || (boolean && !blocks.asks_mask(key))) return 0;
    return mask[(key - first_key) * stride];
  }
};

/// Applies the additive mask, score_mod, mask_mod and the block mask. Hidden keys are set to -inf
/// after score_mod, which may have changed their scores.
void mask_scores(const UnfusedCall& call, const BlockAnswers& blocks, const KeyRun& keys,
                 float* scores) {
  MaskRun mask{
      nullptr, call.mask.strides[3], call.tensors.mask.dtype == DType::boolean,
      blocks,  keys.key_begin,       std::max<std::int64_t>(call.mask.first_key(keys.batch), 0)};
  if (call.mask.present()) {
    mask.mask = reinterpret_cast<const float*>(
        call.mask.element(keys.batch, keys.q_head, keys.q_index, mask.first_key));
    for (std::int64_t n = 0; n < keys.count; ++n) scores[n] += mask[n];
  }
  if (call.options.score_mod) call.options.score_mod(keys, scores);
  const auto visible = std::make_unique<bool[]>(static_cast<std::size_t>(keys.count));
  if (call.options.mask_mod) call.options.mask_mod(keys, visible.get());
  for (std::int64_t n = 0; n < keys.count; ++n) {
    const std::int64_t key = keys.key_begin + n;
    const bool by_mod = call.options.mask_mod && !visible[n] && blocks.asks_mask_mod(key);
    const bool by_mask = mask.mask != nullptr && mask[n] == -infinity;
    if (by_mod || by_mask || blocks.hides(key)) scores[n] = -infinity;
  }
}

/// Transforms one row. Returns whether any of its scores is -inf.
bool transform_row(const UnfusedCall& call, std::int64_t index) {
  const std::int64_t kv_len = call.problem.sizes.kv_len;
  float* const scores = call.scores_of(index);
  const KeyRun row = all_keys_of_row(call.problem, call.tensors, index);
  const KeyRun keys = visible_range(call, row);
  float* const first = scores + keys.key_begin;
  if (keys.count > 0) {
    scale_and_bias(call, keys, first);
    mask_scores(call, BlockAnswers(call.options, row), keys, first);
  }
  std::fill(scores, first, -infinity);
  std::fill(first + keys.count, scores + kv_len, -infinity);
  const Extremes range = extremes(first, keys.count);
  call.row_max[index] = range.max;
  return keys.count < kv_len || range.min == -infinity;
}

}  // namespace

void apply_tanh(const UnfusedCall& call) {
  const std::int64_t count = num_rows(call.problem.sizes) * call.problem.sizes.kv_len;
  const float scale = call.problem.softmax_scale, softcap = *call.problem.softcap;
  parallel_ranges(call.threads, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) call.scores[n] = call.scores[n] * scale / softcap;
  });
  tanh_elements(call);
}

bool transform_scores(const UnfusedCall& call) {
  const Sizes& sizes = call.problem.sizes;
  std::atomic<bool> any_hidden = false;
  parallel_ranges(call.threads, num_rows(sizes), sizes.kv_len,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t index = begin; index < end; ++index) {
                      if (transform_row(call, index))
                        any_hidden.store(true, std::memory_order_relaxed);
                    }
                  });
  return any_hidden;
}

}  // namespace attn::detail
