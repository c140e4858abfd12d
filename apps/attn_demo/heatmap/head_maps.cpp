#include "head_maps.hpp"

#include <attn/reference.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/attn_demo/models/model.hpp"
#include "apps/support/memory.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

/// The tensor at one place of a dim. An extent of 1 is broadcast to all places.
TensorView at(const TensorView& tensor, int dim, std::int64_t place) {
  return tensor.shape[dim] == 1 ? tensor : tensor.sliced(dim, place, place + 1);
}

/// The part of a call that belongs to one batch entry and query head.
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
  // Scores are in double, because in f32 a visible score of large magnitude could become -inf.
  Tensor scores(DType::f64, {1, 1, tensors.q.shape[2], tensors.k.shape[2]});
  reference_scores(tensors, options, stage, scores.view());
  return scores;
}

ProbabilityMap head_map(const AttentionTensors& all, const AttentionOptions& options,
                        std::int64_t batch, std::int64_t head) {
  const AttentionTensors tensors = one_head(all, batch, head);
  ProbabilityMap map;
  map.grid = Grid(tensors.q.shape[2], tensors.k.shape[2]);
  const Tensor masked = scores_of(tensors, options, ScoreStage::masked);
  std::transform(
      masked.data<double>(), masked.data<double>() + masked.size(), map.grid.hidden.begin(),
      [](double score) { return static_cast<unsigned char>(std::isinf(score) && score < 0); });
  const Tensor probabilities = scores_of(tensors, options, ScoreStage::weights);
  copy_into(probabilities.view(), {map.grid.probabilities.data(), probabilities.shape()});
  return map;
}

std::vector<std::string> labels_of(const std::vector<std::int64_t>& ids,
                                   const std::optional<Tokenizer>& tokenizer) {
  std::vector<std::string> labels;
  for (const std::int64_t id : ids) {
    const bool known = tokenizer && tokenizer->has(id);
    labels.push_back(known ? readable(tokenizer->piece(id)) : std::to_string(id));
  }
  return labels;
}

}  // namespace

void require_place(const char* option, std::int64_t place, std::int64_t count,
                   const std::string& extent) {
  if (place < count) return;
  reject_value(
      option, fmt::format("{}", place),
      fmt::format("an integer in 0..{}: {}", count - 1, fmt::format(fmt::runtime(extent), count)));
}

void require_room_for_maps(const HeadChoice& choice, std::int64_t num_heads, std::int64_t q_len,
                           std::int64_t kv_len) {
  constexpr double bytes_per_probability = 5, bytes_per_score = 8;
  const std::int64_t num_maps = choice.head ? 1 : num_heads;
  require_memory(fmt::format("a picture of {} x {} probabilities a head", q_len, kv_len),
                 product_of({q_len, kv_len}) *
                     (bytes_per_probability * static_cast<double>(num_maps) + 2 * bytes_per_score));
}

std::vector<ProbabilityMap> head_maps(const AttentionTensors& tensors,
                                      const AttentionOptions& options, const HeadChoice& choice,
                                      const AxisLabels& labels, const std::string& place) {
  const std::int64_t first = choice.head.value_or(0),
                     last = choice.head ? first + 1 : tensors.q.shape[1];
  std::vector<ProbabilityMap> maps;
  for (std::int64_t head = first; head < last; ++head) {
    ProbabilityMap& map = maps.emplace_back(head_map(tensors, options, choice.batch, head));
    map.title =
        fmt::format("{}head {}", choice.head ? "attention probabilities, " + place : "", head);
    map.row_labels = labels.rows;
    map.column_labels = labels.columns;
  }
  return maps;
}

std::vector<ProbabilityMap> layer_maps(const ModelLayer& model, const HeadChoice& choice) {
  ModelChoice folder;
  folder.folder = model.folder;
  const ModelSource source(folder);
  const std::optional<Tokenizer> tokenizer = tokenizer_for(model.prompt, source);
  const std::vector<std::int64_t> ids = prompt_ids(model.prompt, tokenizer, source);
  Model loaded = source.load(std::ssize(ids));
  const std::vector<LayerSettings>& layers = loaded.settings.layers;
  require_place("--layer", model.layer, std::ssize(layers), "the model has {} layers");
  const std::int64_t num_heads =
      layers[static_cast<std::size_t>(model.layer)].attention.num_q_heads;
  if (choice.head) require_place("--head", *choice.head, num_heads, "the model has {} query heads");
  require_room_for_maps(choice, num_heads, std::ssize(ids), std::ssize(ids));

  const std::vector<std::string> labels = labels_of(ids, tokenizer);
  std::vector<ProbabilityMap> maps;
  std::int64_t layer = 0;
  const ForwardHooks hooks{
      .attention = [&](const AttentionTensors& tensors, const AttentionOptions& options) {
        if (layer++ == model.layer)
          maps = head_maps(tensors, options, choice, {labels, labels},
                           fmt::format("layer {}, ", model.layer));
      }};
  const std::vector<CacheRef> no_caches(layers.size());
  loaded.decoder.forward({ids.data(), {1, std::ssize(ids)}}, no_caches, {}, {.hooks = &hooks});
  return maps;
}

}  // namespace attn::apps::demo
