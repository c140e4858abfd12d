// Weights of a call on tensors in files.
#pragma once

#include <cstdint>

#include "attn_demo/inputs.hpp"
#include "weight_map.hpp"

namespace attn::demo {

/// The weights of one batch entry and query head, exactly as the textbook version has them, and what its masks hide. Both numbers
/// exist. Labels and title are left to the caller.
WeightMap call_weights(const Call& call, std::int64_t batch, std::int64_t head);

}  // namespace attn::demo
