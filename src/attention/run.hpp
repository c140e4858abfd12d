// Runs a prepared call.
#pragma once

#include "attention/call_context.hpp"

namespace attn::detail {

/// `memory` holds Scratch::size(call.plan) bytes. The tensors have been validated.
void run(const PreparedCall& call, const AttentionTensors& tensors, void* memory);

}  // namespace attn::detail
