#include "call_weights.hpp"

#include <attn/reference.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/support/memory.hpp"

namespace attn::apps::demo {
namespace {

/// One place of a dim; an extent of 1 serves all places.
TensorView at(const TensorView& tensor, int dim, std::int64_t place) {
  return tensor.shape[dim] == 1 ? tensor : tensor.sliced(dim, place, place + 1);
}

/// The same call of one batch entry and query head alone.
AttentionTensors one_head(const AttentionTensors& all, std::int64_t batch, std::int64_t head) {
  const std::int64_t group_size = all.q.shape[1] / all.k.shape[1];
  AttentionTensors one;
  one.q = at(at(all.q, 0, batch), 1, head);
  one.k = at(at(all.k, 0, batch), 1, head / group_size);
  one.mask = all.mask;
  if (all.mask.rank() == 4) one.mask = at(at(all.mask, 0, batch), 1, head);
  if (all.mask.rank() == 3) one.mask = at(all.mask, 0, head);
  if (!all.alibi_slopes.absent()) one.alibi_slopes = at(all.alibi_slopes, 0, head);
  if (!all.sinks.absent()) one.sinks = at(all.sinks, 0, head);
  if (!all.kv_lens.absent()) one.kv_lens = at(all.kv_lens, 0, batch);
  return one;
}

Tensor scores_of(const AttentionTensors& tensors, const AttentionOptions& options,
                 ScoreStage stage) {
  // In double: in f32 a score that is very small, but seen, would become -inf.
  Tensor scores(DType::f64, {1, 1, tensors.q.shape[2], tensors.k.shape[2]});
  reference_scores(tensors, options, stage, scores.view());
  return scores;
}

}  // namespace

WeightMap call_weights(const AttentionTensors& all, const AttentionOptions& options,
                       const HeadChoice& choice) {
  const AttentionTensors tensors = one_head(all, choice.batch, choice.head);
  WeightMap map;
  map.grid = Grid(tensors.q.shape[2], tensors.k.shape[2]);
  const Tensor masked = scores_of(tensors, options, ScoreStage::masked);
  std::transform(
      masked.data<double>(), masked.data<double>() + masked.size(), map.grid.hidden.begin(),
      [](double score) { return static_cast<unsigned char>(std::isinf(score) && score < 0); });
  const Tensor weights = scores_of(tensors, options, ScoreStage::weights);
  copy_into(weights.view(), {map.grid.weights.data(), weights.shape()});
  return map;
}

void require_room_for_weights(std::int64_t q_len, std::int64_t kv_len, std::int64_t num_heads) {
  constexpr double bytes_a_weight = 5, bytes_a_score = 8;
  const double weights = static_cast<double>(q_len) * static_cast<double>(kv_len);
  require_memory(fmt::format("a picture of {} x {} weights a head", q_len, kv_len),
                 weights * (bytes_a_weight * static_cast<double>(num_heads) + 2 * bytes_a_score));
}

}  // namespace attn::apps::demo
