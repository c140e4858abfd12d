// A checkpoint's tensors by their Hugging Face names, as a decoder takes them: views, no copies.
#pragma once

#include <attn/transformer.hpp>

#include "model/checkpoint.hpp"
#include "model/config.hpp"

namespace attn::model {

/// Throws Error(io): for tensors that are missing and those that the model does not have, all
/// counted and the first few named, and for one of another shape or element type than the model
/// needs.
DecoderWeights collect_weights(const Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace attn::model
