// The probabilities of the heads of a call, or of a model's layer, as maps.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/models/prompt.hpp"
#include "labels.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

/// The heads of a call, or of a model's layer, that are drawn.
struct HeadChoice {
  std::int64_t batch = 0;
  std::optional<std::int64_t> head = 0;  // empty: all heads
};

/// Throws Error(invalid_argument) if the probabilities of the chosen heads, and the scores of one,
/// do not fit into memory.
void require_room_for_maps(const HeadChoice& choice, std::int64_t num_heads, std::int64_t q_len,
                           std::int64_t kv_len);

/// The probabilities of each chosen head, computed by the reference, and which keys are hidden. Q
/// and K are [batch, heads, seq, dim]. Where all heads are chosen, the title of a map is the head's
/// number; else it begins with `place`, such as "layer 3, ".
std::vector<ProbabilityMap> head_maps(const AttentionTensors& tensors,
                                      const AttentionOptions& options, const HeadChoice& choice,
                                      const AxisLabels& labels, const std::string& place);

struct ModelLayer {
  std::optional<std::string> folder;
  PromptChoice prompt;
  std::int64_t layer = 0;
};

/// The same of a model's layer; the tokens are the labels. Throws Error if the model does not have
/// the layer or the head.
std::vector<ProbabilityMap> layer_maps(const ModelLayer& model, const HeadChoice& choice);

/// Throws Error(invalid_argument) if place is not below count. In `extent`, which says in the
/// message what there is, {} stands for count.
void require_place(const char* option, std::int64_t place, std::int64_t count,
                   const std::string& extent);

}  // namespace attn::apps::demo
