// Weights of a call.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "weight_map.hpp"

namespace attn::apps::demo {

/// Which part of a call is drawn.
struct HeadChoice {
  std::int64_t batch;
  std::int64_t head;
};

/// The weights of one batch entry and query head, exactly as the textbook version has them, and
/// what the masks hide. Both numbers exist; q and k are [batch, heads, seq, dim]. Labels and title
/// are left to the caller.
WeightMap call_weights(const AttentionTensors& tensors, const AttentionOptions& options,
                       const HeadChoice& choice);

/// Throws Error(invalid_argument) where the weights of so many heads, and the scores of one, would
/// not fit into memory.
void require_room_for_weights(std::int64_t q_len, std::int64_t kv_len, std::int64_t num_heads);

}  // namespace attn::apps::demo
