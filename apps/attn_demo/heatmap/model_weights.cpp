#include "model_weights.hpp"

#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include "apps/attn_demo/models/model.hpp"
#include "apps/support/options.hpp"
#include "call_weights.hpp"
#include "labels.hpp"

namespace attn::apps::demo {
namespace {

void require_place(const char* option, std::int64_t place, std::int64_t count, const char* what) {
  if (place < count) return;
  reject_value(option, fmt::format("{}", place),
               fmt::format("an integer in 0..{}: the model has {} {}", count - 1, count, what));
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

std::vector<WeightMap> model_weights(const ModelWeights& choice) {
  ModelChoice folder;
  folder.folder = choice.folder;
  const ModelSource source(folder);
  const std::optional<Tokenizer> tokenizer = tokenizer_for(choice.prompt, source);
  const std::vector<std::int64_t> ids = prompt_ids(choice.prompt, tokenizer);
  Model model = source.load(std::ssize(ids));
  const std::vector<LayerSettings>& layers = model.settings.layers;
  require_place("--layer", choice.layer, std::ssize(layers), "layers");
  const std::int64_t num_heads =
      layers[static_cast<std::size_t>(choice.layer)].attention.num_q_heads;
  if (choice.head) require_place("--head", *choice.head, num_heads, "query heads");

  require_room_for_weights(std::ssize(ids), std::ssize(ids), choice.head ? 1 : num_heads);
  const std::vector<std::string> labels = labels_of(ids, tokenizer);
  std::vector<WeightMap> maps;
  std::int64_t layer = 0;
  const ForwardHooks hooks{.attention = [&](const AttentionTensors& tensors,
                                            const AttentionOptions& options) {
    if (layer++ != choice.layer) return;
    const std::int64_t first = choice.head.value_or(0), last = choice.head ? first + 1 : num_heads;
    for (std::int64_t head = first; head < last; ++head) {
      maps.push_back(call_weights(tensors, options, {.batch = 0, .head = head}));
      maps.back().title = choice.head
                              ? fmt::format("attention weights, layer {}, head {}", layer - 1, head)
                              : fmt::format("head {}", head);
      maps.back().row_labels = maps.back().column_labels = labels;
    }
  }};
  const std::vector<CacheRef> no_caches(layers.size());
  model.decoder.forward({ids.data(), {1, std::ssize(ids)}}, no_caches, {}, {.hooks = &hooks});
  return maps;
}

}  // namespace attn::apps::demo
