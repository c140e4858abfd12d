// Weights that a model gives to the tokens of a prompt.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/models/prompt.hpp"
#include "weight_map.hpp"

namespace attn::apps::demo {

struct ModelWeights {
  std::string folder;
  PromptChoice prompt;
  std::int64_t layer = 0;
  std::optional<std::int64_t> head;  // none: all
};

/// One map for each head asked for, labeled by the tokens. Throws attn::Error for a layer or head
/// that the model lacks.
std::vector<WeightMap> model_weights(const ModelWeights& choice);

}  // namespace attn::apps::demo
