#include "attention/scores.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "iterate/row.hpp"

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
      mask_(dense_mask(tensors, problem.sizes)) {
  const bool softmax = problem.normalizer.kind() == Normalizer::Kind::softmax;
  transforms_ = !softmax || problem.softcap || !tensors.alibi_slopes.absent() || additive() ||
                options.score_mod || !folds(problem.softmax_scale);
}

KeyRun RowScores::run_of(const QueryRow& row, KeyRange keys) noexcept {
  return {row.batch, row.q_head, row.kv_head, row.q_index, row.q_position, keys.begin, keys.size()};
}

const float* RowScores::additive_mask(const QueryRow& row, KeyRange keys,
                                      float* staging) const noexcept {
  const std::byte* first =
      mask_.row(row.batch, row.q_head, row.q_index) + keys.begin * mask_.key_stride_in_bytes();
  return as_floats(Row{const_cast<std::byte*>(first), mask_.dtype, mask_.strides[3]}, keys.size(),
                   kernels_, staging);
}

std::int64_t RowScores::visibility(const QueryRow& row, KeyRange keys,
                                   std::uint8_t* visible) const {
  if (options_.mask_mod) {
    static_assert(sizeof(bool) == sizeof(std::uint8_t));
    options_.mask_mod(run_of(row, keys), reinterpret_cast<bool*>(visible));
  } else {
    std::memset(visible, 1, static_cast<std::size_t>(keys.size()));
  }
  if (mask_.present() && mask_.boolean()) {
    const std::int64_t stride = mask_.key_stride_in_bytes();
    const auto* mask = mask_.row(row.batch, row.q_head, row.q_index) + keys.begin * stride;
    for (std::int64_t n = 0; n < keys.size(); ++n) {
      visible[n] = static_cast<std::uint8_t>(
          visible[n] & (std::to_integer<std::uint8_t>(mask[n * stride]) != 0));
    }
  }
  std::int64_t count = 0;
  for (std::int64_t n = 0; n < keys.size(); ++n) count += visible[n];
  return count;
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
