// Attention as the textbook writes it: one query row at a time, with all of its scores, in double
// precision. The engine is measured against this file, so it uses none of the engine's code beyond
// validation. In particular, it decides for each key separately whether the key is visible.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "attention/problem.hpp"
#include "oracle/probabilities.hpp"
#include "oracle/query_rows.hpp"
#include "oracle/sequence_calls.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Values = std::vector<double>;

/// A dense call with copies of its inputs in double.
struct Call {
  const Problem& problem;
  const AttentionTensors& tensors;
  const AttentionOptions& options;
  Tensor q, k, v;
  DenseMask mask;
};

const double* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                     std::int64_t position) {
  const Dims& shape = tensor.shape();
  return tensor.data<double>() + ((batch * shape[1] + head) * shape[2] + position) * shape[3];
}

Values scaled_scores(const Call& call, const KeyRun& row) {
  const std::int64_t head_dim = call.problem.sizes.head_dim;
  const double* q = row_of(call.q, row.batch, row.q_head, row.q_index);
  Values scores(static_cast<std::size_t>(row.count));
  for (std::int64_t j = 0; j < row.count; ++j) {
    const double* k = row_of(call.k, row.batch, row.kv_head, j);
    scores[j] = call.problem.softmax_scale * std::transform_reduce(q, q + head_dim, k, 0.0);
  }
  return scores;
}

void cap(const Call& call, Values& scores) {
  if (!call.problem.softcap) return;
  const double softcap = *call.problem.softcap;
  for (double& score : scores) score = softcap * std::tanh(score / softcap);
}

void add_alibi(const Call& call, const KeyRun& row, Values& scores) {
  if (call.tensors.alibi_slopes.absent()) return;
  const double slope = per_head(call.tensors.alibi_slopes, row.q_head, 0);
  for (std::int64_t j = 0; j < row.count; ++j)
    scores[j] -= slope * static_cast<double>(std::abs(row.q_position - j));
}

/// The dense mask of a row: the numbers to add, or 0 (hidden) and 1 (visible) of a boolean mask.
/// Empty without a mask, and shorter than the row where the mask is.
Values mask_values(const Call& call, const KeyRun& row) {
  if (!call.mask.present()) return {};
  const std::int64_t count = std::min(row.count, call.mask.kv_len);
  Values values(static_cast<std::size_t>(count));
  copy_into({call.mask.row(row.batch, row.q_head, row.q_index),
             call.mask.dtype,
             {count},
             {call.mask.strides[3]}},
            {values.data(), {count}});
  return values;
}

void add_mask(const Call& call, const Values& mask, Values& scores) {
  if (call.mask.boolean()) return;
  for (std::size_t j = 0; j < mask.size(); ++j) scores[j] += mask[j];
}

void apply_score_mod(const Call& call, const KeyRun& row, Values& scores) {
  if (!call.options.score_mod || scores.empty()) return;
  std::vector<float> floats(scores.begin(), scores.end());
  call.options.score_mod(row, floats.data());
  scores.assign(floats.begin(), floats.end());
}

/// Whether key j is visible by the masks other than mask_mod.
bool visible(const Call& call, const KeyRun& row, const Values& mask, std::int64_t j) {
  const Window& window = call.problem.window;
  if (j >= kv_length(call.tensors, call.problem.sizes, row.batch)) return false;
  if (call.problem.causal && j > row.q_position) return false;
  if (window.left && j < row.q_position - *window.left) return false;
  if (window.right && j > row.q_position + *window.right) return false;
  if (!call.mask.present()) return true;
  if (j >= call.mask.kv_len) return false;
  return mask[j] != (call.mask.boolean() ? 0 : -infinity);
}

void hide(const Call& call, const KeyRun& row, const Values& mask, Values& scores) {
  const auto modded = std::make_unique<bool[]>(scores.size());
  std::fill_n(modded.get(), scores.size(), true);
  if (call.options.mask_mod && !scores.empty()) call.options.mask_mod(row, modded.get());
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (!modded[j] || !visible(call, row, mask, j)) scores[j] = -infinity;
  }
}

/// The scores of a row at a stage before they become probabilities.
Values scores_of(const Call& call, const KeyRun& row, ScoreStage stage) {
  Values scores = scaled_scores(call, row);
  if (stage == ScoreStage::scaled) return scores;
  cap(call, scores);
  if (stage == ScoreStage::capped) return scores;
  const Values mask = mask_values(call, row);
  add_alibi(call, row, scores);
  add_mask(call, mask, scores);
  apply_score_mod(call, row, scores);
  hide(call, row, mask, scores);
  return scores;
}

/// Turns masked scores into probabilities and returns lse.
double normalize(const Call& call, const KeyRun& row, Values& scores) {
  const double sink =
      per_head(call.tensors.sinks, row.q_head, -std::numeric_limits<float>::infinity());
  return probabilities_of_scores(call.problem.normalizer, sink,
                                 kv_length(call.tensors, call.problem.sizes, row.batch), scores);
}

/// The row of O. Values of hidden keys are not read, because V may hold anything there.
Values output_row(const Call& call, const KeyRun& row, const Values& scores,
                  const Values& probabilities) {
  Values out(static_cast<std::size_t>(call.problem.sizes.v_head_dim), 0.0);
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (scores[j] == -infinity) continue;
    const double* v = row_of(call.v, row.batch, row.kv_head, j);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += probabilities[j] * v[d];
  }
  return out;
}

/// validate() does not accept f64. The reference does, so f64 tensors are presented to it as f32.
AttentionTensors with_f64_as_f32(AttentionTensors tensors) {
  for (DType* dtype : {&tensors.q.dtype, &tensors.k.dtype, &tensors.v.dtype, &tensors.out.dtype}) {
    if (*dtype == DType::f64) *dtype = DType::f32;
  }
  return tensors;
}

void require_scores(const Sizes& sizes, const MutableTensorView& scores) {
  require_data("scores", scores);
  require_elements_apart("scores", scores);
  const Dims needed{sizes.batch, sizes.num_q_heads, sizes.q_len, sizes.kv_len};
  const bool typed = scores.dtype == DType::f32 || scores.dtype == DType::f64;
  if (typed && scores.shape == needed) return;
  reject(
      fmt::format("scores has shape {} and type {}; it needs [batch, num_q_heads, q_len, "
                  "kv_len] = {}, f32 or f64",
                  scores.shape.to_string(), name_of(scores.dtype), needed.to_string()));
}

Tensor filled(const Dims& shape, double value) {
  Tensor tensor(DType::f64, shape);
  std::fill_n(tensor.data<double>(), tensor.size(), value);
  return tensor;
}

/// Writes the scores of one sequence after the other. Beyond the keys of a sequence, the scores are
/// those of hidden keys.
void scores_of_sequences(const Problem& problem, const AttentionTensors& tensors,
                         const AttentionOptions& options, ScoreStage stage,
                         const MutableTensorView& scores, const Execution& execution) {
  const Tensor hidden = filled(scores.shape, stage == ScoreStage::weights ? 0 : -infinity);
  copy_into(hidden.view(), scores);
  AttentionTensors without_values = tensors;
  without_values.v = without_values.storage.v_scales = {};
  without_values.out = {};
  for_each_sequence(problem, without_values, options, DType::f64, [&](const SequenceCall& call) {
    const MutableTensorView entry = scores.sliced(0, call.batch, call.batch + 1);
    reference_scores(call.tensors, call.options, stage, entry.sliced(3, 0, call.tensors.k.shape[2]),
                     execution);
  });
}

}  // namespace

void attention_reference(const AttentionTensors& tensors, const AttentionOptions& options,
                         const Execution& execution) {
  const Problem problem = validate(with_f64_as_f32(tensors), options, execution);
  validate_data(problem, tensors);
  if (!is_dense(tensors)) {
    return for_each_sequence(problem, tensors, options, DType::f64, [&](const SequenceCall& call) {
      attention_reference(call.tensors, call.options, execution);
    });
  }
  const auto in_double = [](const TensorView& tensor) { return copy_as(tensor, DType::f64); };
  const Call call{problem,
                  tensors,
                  options,
                  in_double(tensors.q),
                  in_double(tensors.k),
                  in_double(tensors.v),
                  dense_mask(tensors, problem.sizes)};
  const int threads = resolved_num_threads(execution.num_threads);
  parallel_for(threads, num_rows(problem.sizes), [&](std::int64_t index) {
    const KeyRun row = all_keys_of_row(problem, tensors, index);
    const Values scores = scores_of(call, row, ScoreStage::masked);
    Values probabilities = scores;
    const double lse = normalize(call, row, probabilities);
    const Values out = output_row(call, row, scores, probabilities);
    copy_into({out.data(), {problem.sizes.v_head_dim}}, row_view(tensors.out, row));
    write_lse(tensors.lse, row, lse);
  });
}

void reference_scores(const AttentionTensors& tensors, const AttentionOptions& options,
                      ScoreStage stage, const MutableTensorView& scores,
                      const Execution& execution) {
  if (!tensors.ragged.q_offsets.absent()) {
    throw Error(ErrorCode::unsupported,
                "q_offsets are given: scores of sequences of different lengths make no [.., q_len, "
                "kv_len]");
  }
  require_enumerator("stage", stage, ScoreStage::weights);
  const Problem problem =
      validate_scores(with_longest_sequences(with_f64_as_f32(tensors)), options, execution);
  validate_data(problem, tensors);
  require_scores(problem.sizes, scores);
  if (!is_dense(tensors)) {
    return scores_of_sequences(problem, tensors, options, stage, scores, execution);
  }
  const Call call{problem,
                  tensors,
                  options,
                  copy_as(tensors.q, DType::f64),
                  copy_as(tensors.k, DType::f64),
                  {},
                  dense_mask(tensors, problem.sizes)};
  const int threads = resolved_num_threads(execution.num_threads);
  parallel_for(threads, num_rows(problem.sizes), [&](std::int64_t index) {
    const KeyRun row = all_keys_of_row(problem, tensors, index);
    Values values = scores_of(call, row, stage);
    if (stage == ScoreStage::weights) normalize(call, row, values);
    copy_into({values.data(), {row.count}}, row_view(scores, row));
  });
}

}  // namespace attn
