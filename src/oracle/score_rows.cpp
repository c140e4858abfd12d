#include "oracle/score_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "oracle/block_answers.hpp"
#include "oracle/row_access.hpp"

namespace attn::detail {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Values = std::vector<double>;

/// The dense mask of a row: the numbers to add, or 0 (hidden) and 1 (visible) of a boolean mask.
/// Empty without a mask, and shorter than the row where the mask ends before. Keys before its first
/// column are visible, and nothing is added to their scores.
Values mask_values(const DenseCall& call, const KeyRun& row) {
  const DenseMask& mask = call.mask;
  if (!mask.present()) return {};
  const std::int64_t first = mask.first_key(row.batch), begin = std::max<std::int64_t>(first, 0);
  const std::int64_t end = std::min(row.count, first + mask.columns);
  Values values(static_cast<std::size_t>(end), mask.boolean() ? 1 : 0);
  if (begin >= end) return values;
  copy_into({mask.element(row.batch, row.q_head, row.q_index, begin),
             mask.dtype,
             {end - begin},
             {mask.strides[3]}},
            {values.data() + begin, {end - begin}});
  return values;
}

/// Whether key j is visible by the masks other than mask_mod.
bool visible(const DenseCall& call, const KeyRun& row, const Values& mask,
             const BlockAnswers& blocks, std::int64_t j) {
  const Window& window = call.problem.window;
  if (j >= kv_length(call.tensors, call.problem.sizes, row.batch)) return false;
  if (call.problem.causal && j > row.q_position) return false;
  if (window.left && j < row.q_position - *window.left) return false;
  if (window.right && j > row.q_position + *window.right) return false;
  if (blocks.hides(j)) return false;
  if (!call.mask.present()) return true;
  if (j >= call.mask.kv_len) return false;
  if (call.mask.boolean()) return mask[j] != 0 || !blocks.asks_mask(j);
  return mask[j] != -infinity;
}

}  // namespace

DenseCall::DenseCall(const Problem& a_problem, const AttentionTensors& some_tensors,
                     const AttentionOptions& some_options)
    : problem(a_problem),
      tensors(some_tensors),
      options(some_options),
      q(copy_as(tensors.q, DType::f64)),
      k(copy_as(tensors.k, DType::f64)),
      v(tensors.v.absent() ? Tensor() : copy_as(tensors.v, DType::f64)),
      mask(dense_mask(tensors, problem)) {}

const double* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                     std::int64_t position) {
  const Dims& shape = tensor.shape();
  return tensor.data<double>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
}

Values scaled_scores(const DenseCall& call, const KeyRun& row) {
  const std::int64_t head_dim = call.problem.sizes.head_dim;
  const double* q = row_of(call.q, row.batch, row.q_head, row.q_index);
  Values scores(static_cast<std::size_t>(row.count));
  for (std::int64_t j = 0; j < row.count; ++j) {
    const double* k = row_of(call.k, row.batch, row.kv_head, j);
    scores[j] = call.problem.softmax_scale * std::transform_reduce(q, q + head_dim, k, 0.0);
  }
  return scores;
}

void apply_softcap(const DenseCall& call, Values& scores) {
  if (!call.problem.softcap) return;
  const double softcap = *call.problem.softcap;
  for (double& score : scores) score = softcap * std::tanh(score / softcap);
}

void add_biases(const DenseCall& call, const KeyRun& row, Values& scores) {
  if (!call.tensors.alibi_slopes.absent()) {
    const double slope = per_head(call.tensors.alibi_slopes, row.q_head, 0);
    for (std::int64_t j = 0; j < row.count; ++j)
      scores[j] -= slope * static_cast<double>(std::abs(row.q_position - j));
  }
  if (!call.mask.present() || call.mask.boolean()) return;
  const Values mask = mask_values(call, row);
  for (std::size_t j = 0; j < mask.size(); ++j) scores[j] += mask[j];
}

void apply_score_mod(const DenseCall& call, const KeyRun& row, Values& scores) {
  if (!call.options.score_mod || scores.empty()) return;
  std::vector<float> floats(scores.begin(), scores.end());
  call.options.score_mod(row, floats.data());
  scores.assign(floats.begin(), floats.end());
}

void hide_keys(const DenseCall& call, const KeyRun& row, Values& scores) {
  const Values mask = mask_values(call, row);
  const auto modded = std::make_unique<bool[]>(scores.size());
  std::fill_n(modded.get(), scores.size(), true);
  if (call.options.mask_mod && !scores.empty()) call.options.mask_mod(row, modded.get());
  const BlockAnswers blocks(call.options, row);
  for (std::int64_t j = 0; j < row.count; ++j) {
    const bool by_mod = modded[j] || !blocks.asks_mask_mod(j);
    if (!by_mod || !visible(call, row, mask, blocks, j)) scores[j] = -infinity;
  }
}

double sink_score(const DenseCall& call, const KeyRun& row) {
  return per_head(call.tensors.sinks, row.q_head, -std::numeric_limits<float>::infinity());
}

AttentionTensors with_f64_as_f32(AttentionTensors tensors) {
  for (DType* dtype : {&tensors.q.dtype, &tensors.k.dtype, &tensors.v.dtype, &tensors.out.dtype}) {
    if (*dtype == DType::f64) *dtype = DType::f32;
  }
  return tensors;
}

}  // namespace attn::detail
