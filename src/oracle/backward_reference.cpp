// The gradients of attention as the textbook writes them: one query row at a time, with all of its
// scores, in double precision. The engine's gradients are measured against this file, which uses
// none of the engine's code beyond validation. The formulas are in attention_backward.hpp.
#include <attn/reference.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "attention/problem.hpp"
#include "backward/validate.hpp"
#include "oracle/probabilities.hpp"
#include "oracle/query_rows.hpp"
#include "oracle/score_rows.hpp"
#include "oracle/sequence_calls.hpp"

namespace attn {
using namespace detail;
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

using Values = std::vector<double>;

/// A dense call and its gradients: copies in double of those that come in, and f64 tensors that
/// those that are wanted are added to.
struct BackwardCall {
  const DenseCall& call;
  const AttentionGradients& sums;
  Tensor dout;
  Tensor dlse;  // zeros if it was not given
};

/// What a row of Q contributes. Arrays have an element for each key of the sequence; those of
/// hidden keys are 0 and are not used, since Q, K, V and dout may hold anything there.
struct RowGradients {
  KeyRun row;
  std::vector<std::int64_t> keys;  // whose score is not -inf
  std::vector<bool> visible;       // the same, key by key
  Values probabilities;
  Values dbiased;   // of the scores that ALiBi and the mask were added to
  Values dproduct;  // of q k, before the scale
  double dsink = 0;
};

/// The derivative of the softcap at each score: 1 - tanh^2.
Values softcap_derivative(const DenseCall& call, const Values& scaled) {
  Values derivative(scaled.size(), 1.0);
  if (!call.problem.softcap) return derivative;
  for (std::size_t j = 0; j < scaled.size(); ++j) {
    const double tanh = std::tanh(scaled[j] / *call.problem.softcap);
    derivative[j] = 1 - tanh * tanh;
  }
  return derivative;
}

void find_visible_keys(const Values& scores, RowGradients& row) {
  row.visible.resize(scores.size());
  for (std::size_t j = 0; j < scores.size(); ++j) {
    row.visible[j] = scores[j] != -infinity;
    if (row.visible[j]) row.keys.push_back(static_cast<std::int64_t>(j));
  }
}

/// Sets the probabilities of a row and the gradients of its masked scores. The sink is one more key
/// with a value of 0, at the end of p and dp. A sink of -inf is none.
Values differentiate_normalizer(const BackwardCall& backward, const Values& scores,
                                RowGradients& gradients) {
  const DenseCall& call = backward.call;
  const KeyRun& row = gradients.row;
  const double* const dout = row_of(backward.dout, row.batch, row.q_head, row.q_index);
  Values p, dp;
  for (const std::int64_t j : gradients.keys) {
    p.push_back(scores[j]);
    dp.push_back(std::transform_reduce(dout, dout + call.problem.sizes.v_head_dim,
                                       row_of(call.v, row.batch, row.kv_head, j), 0.0));
  }
  const double sink = sink_score(call, row);
  p.push_back(sink);
  dp.push_back(0);
  const Normalizer& normalizer = call.problem.normalizer;
  probabilities_of_scores(normalizer, -infinity,
                          kv_length(call.tensors, call.problem.sizes, row.batch), p);
  const Values ds = score_gradients(normalizer, p, dp,
                                    *row_of(backward.dlse, row.batch, row.q_head, row.q_index));
  if (sink != -infinity) gradients.dsink = ds.back();

  gradients.probabilities.resize(scores.size());
  Values dscores(scores.size());
  for (std::size_t n = 0; n < gradients.keys.size(); ++n) {
    gradients.probabilities[gradients.keys[n]] = p[n];
    dscores[gradients.keys[n]] = ds[n];
  }
  return dscores;
}

/// Passes the gradients of a row's scores back through the user's function, in float as the
/// function itself. `received` are the scores that it was called with.
void differentiate_score_mod(const DenseCall& call, const KeyRun& row, const Values& received,
                             Values& dscores) {
  if (!call.options.score_mod || dscores.empty()) return;
  const std::vector<float> scores(received.begin(), received.end());
  std::vector<float> gradient(dscores.begin(), dscores.end());
  call.options.score_mod_gradient(row, scores.data(), gradient.data());
  dscores.assign(gradient.begin(), gradient.end());
}

RowGradients gradients_of_row(const BackwardCall& backward, const KeyRun& row) {
  const DenseCall& call = backward.call;
  RowGradients gradients;
  gradients.row = row;
  Values scores = scaled_scores(call, row);
  const Values capped_by_scaled = softcap_derivative(call, scores);
  apply_softcap(call, scores);
  add_biases(call, row, scores);
  const Values biased = scores;
  apply_score_mod(call, row, scores);
  hide_keys(call, row, scores);
  find_visible_keys(scores, gradients);

  gradients.dbiased = differentiate_normalizer(backward, scores, gradients);
  differentiate_score_mod(call, row, biased, gradients.dbiased);
  gradients.dproduct.resize(scores.size());
  for (const std::int64_t j : gradients.keys)
    gradients.dproduct[j] =
        call.problem.softmax_scale * (gradients.dbiased[j] * capped_by_scaled[j]);
  return gradients;
}

/// A row of a sum, whose last dim is dense.
double* sum_row(const MutableTensorView& sum, std::int64_t batch, std::int64_t head,
                std::int64_t position) {
  return reinterpret_cast<double*>(address_of(sum, batch, head, position));
}

/// sum += factor * row
void add_row(double* sum, double factor, const double* row, std::int64_t count) {
  for (std::int64_t d = 0; d < count; ++d) sum[d] += factor * row[d];
}

void add_to_dq(const BackwardCall& backward, const RowGradients& gradients) {
  const auto& [call, sums, dout, dlse] = backward;
  const KeyRun& row = gradients.row;
  if (sums.dq.absent()) return;
  double* const dq = sum_row(sums.dq, row.batch, row.q_head, row.q_index);
  for (const std::int64_t j : gradients.keys) {
    add_row(dq, gradients.dproduct[j], row_of(call.k, row.batch, row.kv_head, j),
            call.problem.sizes.head_dim);
  }
}

/// Adds what a row contributes to the gradients of key j.
void add_to_dk_and_dv(const BackwardCall& backward, const RowGradients& gradients, std::int64_t j) {
  const auto& [call, sums, dout, dlse] = backward;
  const KeyRun& row = gradients.row;
  if (!gradients.visible[j]) return;
  if (!sums.dk.absent()) {
    add_row(sum_row(sums.dk, row.batch, row.kv_head, j), gradients.dproduct[j],
            row_of(call.q, row.batch, row.q_head, row.q_index), call.problem.sizes.head_dim);
  }
  if (!sums.dv.absent()) {
    add_row(sum_row(sums.dv, row.batch, row.kv_head, j), gradients.probabilities[j],
            row_of(dout, row.batch, row.q_head, row.q_index), call.problem.sizes.v_head_dim);
  }
}

/// Adds what a row contributes to the gradients that several heads or batch entries share.
void add_to_shared(const BackwardCall& backward, const RowGradients& gradients) {
  const AttentionGradients& sums = backward.sums;
  const KeyRun& row = gradients.row;
  if (!sums.dmask.absent()) {
    // The sum is laid out as the mask, so a dim that the mask broadcasts has stride 0.
    const DenseMask dmask =
        dense_mask(sums.dmask, backward.call.mask.lengths, backward.call.problem.mask_keys);
    for (const std::int64_t j : gradients.keys) {
      if (j < dmask.first_key(row.batch)) continue;
      const std::byte* const to = dmask.element(row.batch, row.q_head, row.q_index, j);
      *reinterpret_cast<double*>(const_cast<std::byte*>(to)) += gradients.dbiased[j];
    }
  }
  if (!sums.dalibi.absent()) {
    double& dalibi = static_cast<double*>(sums.dalibi.data)[row.q_head];
    for (const std::int64_t j : gradients.keys)
      dalibi -= static_cast<double>(std::abs(row.q_position - j)) * gradients.dbiased[j];
  }
  if (!sums.dsinks.absent()) static_cast<double*>(sums.dsinks.data)[row.q_head] += gradients.dsink;
}

/// Rows are differentiated in parallel, a few at a time, and then added up in their order, so that
/// the sums do not depend on the number of threads.
void add_dense_gradients(const BackwardCall& backward, const Threads& threads) {
  constexpr std::int64_t rows_at_once = 64;
  const DenseCall& call = backward.call;
  const std::int64_t rows = num_rows(call.problem.sizes);
  std::vector<RowGradients> gradients;
  for (std::int64_t first = 0; first < rows; first += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, rows - first);
    gradients.assign(static_cast<std::size_t>(count), {});
    parallel_for(threads, count, [&](std::int64_t n) {
      gradients[n] =
          gradients_of_row(backward, all_keys_of_row(call.problem, call.tensors, first + n));
      add_to_dq(backward, gradients[n]);
    });
    parallel_for(threads, call.problem.sizes.kv_len, [&](std::int64_t j) {
      for (const RowGradients& row : gradients) add_to_dk_and_dv(backward, row, j);
    });
    for (const RowGradients& row : gradients) add_to_shared(backward, row);
  }
}

/// Adds the gradients of a call to `sums`, which are f64.
void add_gradients(const AttentionTensors& tensors, const AttentionGradients& sums,
                   const AttentionOptions& options, const Execution& execution) {
  const Problem problem = validate_backward(with_f64_as_f32(tensors), sums, options, execution,
                                            ForwardResults::ignored);
  if (!is_dense(tensors)) {
    return for_each_sequence(problem, tensors, options, DType::f64, [&](const SequenceCall& call) {
      add_gradients(call.tensors, gradients_of_sequence(tensors, sums, call), call.options,
                    execution);
    });
  }
  const DenseCall call(problem, tensors, options);
  const Dims rows{problem.sizes.batch, problem.sizes.num_q_heads, problem.sizes.q_len, 1};
  Tensor dlse(DType::f64, rows);
  if (!sums.dlse.absent()) copy_into(sums.dlse, {dlse.data(), DType::f64, sums.dlse.shape});
  add_dense_gradients({call, sums, copy_as(sums.dout, DType::f64), std::move(dlse)},
                      resolved_threads(execution));
}

Tensor zeros_like(const MutableTensorView& wanted) {
  return wanted.absent() ? Tensor() : Tensor(DType::f64, wanted.shape);
}

}  // namespace

void attention_backward_reference(const AttentionTensors& tensors,
                                  const AttentionGradients& gradients,
                                  const AttentionOptions& options, const Execution& execution) {
  const Problem problem = validate_backward(with_f64_as_f32(tensors), gradients, options, execution,
                                            ForwardResults::ignored);
  validate_backward_data(problem, tensors, gradients);
  AttentionTensors inputs = tensors;
  inputs.out = inputs.lse = {};
  AttentionGradients sums{.dout = gradients.dout, .dlse = gradients.dlse};
  constexpr MutableTensorView AttentionGradients::*outputs[] = {
      &AttentionGradients::dq,    &AttentionGradients::dk,     &AttentionGradients::dv,
      &AttentionGradients::dmask, &AttentionGradients::dalibi, &AttentionGradients::dsinks};
  std::vector<Tensor> memory;
  for (const auto output : outputs) {
    memory.push_back(zeros_like(gradients.*output));
    if (!(gradients.*output).absent()) sums.*output = memory.back().view();
  }
  add_gradients(inputs, sums, options, execution);
  for (const auto output : outputs) {
    if (!(gradients.*output).absent()) copy_into(sums.*output, gradients.*output);
  }
}

}  // namespace attn
