// The probabilities of the heads of a call, or of a model's layer, as maps.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/models/prompt.hpp"
#include "probability_map.hpp"

namespace attn::apps::demo {

/// The part of a call that is drawn.
struct HeadChoice {
  std::int64_t batch;
  std::int64_t head;
};

/// The probabilities of one batch entry and query head, computed by the reference, and which keys
/// are hidden. Q and K are [batch, heads, seq, dim]. The map has no labels and no title yet.
ProbabilityMap head_map(const AttentionTensors& tensors, const AttentionOptions& options,
                        const HeadChoice& choice);

struct ModelHeads {
  std::string folder;
  PromptChoice prompt;
  std::int64_t layer = 0;
  std::optional<std::int64_t> head;  // empty: all heads
};

/// One map for each chosen head; the tokens are its labels. Throws Error if the model does not have
/// the layer or the head.
std::vector<ProbabilityMap> model_maps(const ModelHeads& choice);

/// Throws Error(invalid_argument) if place is not below count. In `extent`, which says in the
/// message what there is, {} stands for count.
void require_place(const char* option, std::int64_t place, std::int64_t count,
                   const std::string& extent);

/// Throws Error(invalid_argument) if the probabilities of so many heads, and the scores of one, do
/// not fit into memory.
void require_room_for_maps(std::int64_t q_len, std::int64_t kv_len, std::int64_t num_heads);

}  // namespace attn::apps::demo
