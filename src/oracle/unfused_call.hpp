// What the steps of the unfused baseline share: a call whose inputs are dense floats, and the loop
// over parts of its matrices.
#pragma once

#include <attn/attention.hpp>

#include <algorithm>
#include <cstdint>

#include "attention/problem.hpp"
#include "kernels/kernels.hpp"
#include "threads/parallel.hpp"

namespace attn::detail {

struct UnfusedCall {
  const Problem& problem;
  const AttentionTensors& tensors;
  const AttentionOptions& options;
  const kernels::Kernels& kernels;
  Threads threads;
  const float *q, *k, *v;  // dense, in the shapes of the tensors
  float* out;              // dense, in the shape of O
  DenseMask mask;          // f32: what is added to each score, -inf where the key is hidden
  float* row_max;          // [rows], where rows = batch * num_q_heads * q_len
  float* scores;           // [rows, kv_len]: first scores, then probabilities

  float* scores_of(std::int64_t row) const { return scores + row * problem.sizes.kv_len; }
  bool uses_softmax() const { return problem.normalizer.kind() == Normalizer::Kind::softmax; }
};

/// Runs f(begin, end) in parallel over parts of 0..count. `cost_of_one` is the number of elements
/// behind one step of the count; a part holds so many steps that starting a thread for it pays.
template <class F>
void parallel_ranges(const Threads& threads, std::int64_t count, std::int64_t cost_of_one, F&& f) {
  constexpr std::int64_t worthwhile = 1 << 14;
  const std::int64_t step =
      std::max<std::int64_t>(1, worthwhile / std::max<std::int64_t>(1, cost_of_one));
  parallel_for(threads, (count + step - 1) / step,
               [&](std::int64_t part) { f(part * step, std::min(count, (part + 1) * step)); });
}

}  // namespace attn::detail
