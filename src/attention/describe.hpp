// A sentence for people about how a call is computed.
#pragma once

#include <string>

#include "attention/call_context.hpp"

namespace attn::detail {

/// "1 thread", "2 threads"
std::string describe_threads(int num_threads);

std::string describe(const PreparedCall& call, const AttentionTensors& tensors);

}  // namespace attn::detail
