// A sentence for people about how a call is computed.
#pragma once

#include <string>

#include "attention/call_context.hpp"

namespace attn::detail {

std::string describe(const PreparedCall& call, const AttentionTensors& tensors);

}  // namespace attn::detail
