// The scores of a row as the textbook writes them, in double, for the reference and its gradients.
// This file decides for each key separately whether the key is visible, and uses none of the
// engine's code, because the engine is measured against it.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <vector>

#include "attention/problem.hpp"

namespace attn::detail {

/// A dense call with copies of its inputs in double. v is empty where tensors.v is absent.
struct DenseCall {
  DenseCall(const Problem& problem, const AttentionTensors& tensors,
            const AttentionOptions& options);

  const Problem& problem;
  const AttentionTensors& tensors;
  const AttentionOptions& options;
  Tensor q, k, v;
  DenseMask mask;
};

/// The elements of a dense f64 tensor [batch, heads, positions, dim] at a position.
const double* row_of(const Tensor& tensor, std::int64_t batch, std::int64_t head,
                     std::int64_t position);

// The steps from a row of Q to its masked scores, in their order. `row` is a run of all keys, and
// `scores` has an element for each.
std::vector<double> scaled_scores(const DenseCall& call, const KeyRun& row);
void apply_softcap(const DenseCall& call, std::vector<double>& scores);
/// Adds ALiBi and the additive mask.
void add_biases(const DenseCall& call, const KeyRun& row, std::vector<double>& scores);
/// Scores are rounded to float for the user's function.
void apply_score_mod(const DenseCall& call, const KeyRun& row, std::vector<double>& scores);
/// Sets the scores of hidden keys to -inf.
void hide_keys(const DenseCall& call, const KeyRun& row, std::vector<double>& scores);

/// The score of the sink of a row's head, -inf without one.
double sink_score(const DenseCall& call, const KeyRun& row);

/// validate() does not accept f64. The reference does, so f64 tensors are presented to it as f32.
AttentionTensors with_f64_as_f32(AttentionTensors tensors);

}  // namespace attn::detail
