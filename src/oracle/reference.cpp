// Attention as the textbook writes it: one query row at a time, with all of its scores, in double
// precision. The engine is measured against this file, so it uses none of the engine's code beyond
// validation.
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/problem.hpp"
#include "oracle/probabilities.hpp"
#include "oracle/query_rows.hpp"
#include "oracle/score_rows.hpp"
#include "oracle/sequence_calls.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Values = std::vector<double>;

/// The scores of a row at a stage before they become probabilities.
Values scores_of(const DenseCall& call, const KeyRun& row, ScoreStage stage) {
  Values scores = scaled_scores(call, row);
  if (stage == ScoreStage::scaled) return scores;
  apply_softcap(call, scores);
  if (stage == ScoreStage::capped) return scores;
  add_biases(call, row, scores);
  apply_score_mod(call, row, scores);
  hide_keys(call, row, scores);
  return scores;
}

/// Turns masked scores into probabilities and returns lse.
double normalize(const DenseCall& call, const KeyRun& row, Values& scores) {
  return probabilities_of_scores(call.problem.normalizer, sink_score(call, row),
                                 kv_length(call.tensors, call.problem.sizes, row.batch), scores);
}

/// The row of O. Values of hidden keys are not read, because V may hold anything there.
Values output_row(const DenseCall& call, const KeyRun& row, const Values& scores,
                  const Values& probabilities) {
  Values out(static_cast<std::size_t>(call.problem.sizes.v_head_dim), 0.0);
  for (std::int64_t j = 0; j < row.count; ++j) {
    if (scores[j] == -infinity) continue;
    const double* v = row_of(call.v, row.batch, row.kv_head, j);
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += probabilities[j] * v[d];
  }
  return out;
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
  const DenseCall call(problem, tensors, options);
  const Threads threads = resolved_threads(execution);
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
  AttentionTensors without_values = tensors;
  without_values.v = {};
  const DenseCall call(problem, without_values, options);
  const Threads threads = resolved_threads(execution);
  parallel_for(threads, num_rows(problem.sizes), [&](std::int64_t index) {
    const KeyRun row = all_keys_of_row(problem, tensors, index);
    Values values = scores_of(call, row, stage);
    if (stage == ScoreStage::weights) normalize(call, row, values);
    copy_into({values.data(), {row.count}}, row_view(scores, row));
  });
}

}  // namespace attn
