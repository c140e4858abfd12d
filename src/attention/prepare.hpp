// Validates and plans a call.
#pragma once

#include "attention/call_context.hpp"

namespace attn::detail {

PreparedCall prepare(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution);

}  // namespace attn::detail
