// Runs a prepared backward call.
#pragma once

#include "backward/context.hpp"

namespace attn::detail {

/// `memory` has BackwardScratch::size() bytes.
void run_backward(const PreparedBackward& call, const AttentionTensors& tensors,
                  const AttentionGradients& gradients, void* memory);

}  // namespace attn::detail
