// Weights of a call.
#pragma once

#include <attn/attention.hpp>

#include <cstdint>

#include "weight_map.hpp"

namespace attn::demo {

/// Which part of a call is drawn.
struct HeadChoice {
  std::int64_t batch;
  std::int64_t head;
};

/// The weights of one batch entry and query head, exactly as the textbook version has them, and what the masks hide. Both numbers
/// exist; q and k are [batch, heads, seq, dim]. Labels and title are left to the caller.
WeightMap call_weights(const Tensors& tensors, const Options& options, const HeadChoice& choice);

}  // namespace attn::demo
