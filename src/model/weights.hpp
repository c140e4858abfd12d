// Parameters of a decoder, found in a checkpoint by the names that Hugging Face gives them. They
// are views; nothing is copied.
#pragma once

#include <attn/encoder.hpp>

#include "model/checkpoint.hpp"
#include "model/config.hpp"

namespace attn::model {

/// Throws Error(io) if tensors are missing, or there are some that the model does not have (all are
/// counted, and the first few named), or one has another shape or element type than the model
/// needs.
DecoderWeights collect_weights(const Checkpoint& checkpoint, const ModelConfig& config);
/// The same for an encoder: a BERT, whose pooler and heads are not read, or the body of a decoder.
EncoderWeights collect_encoder_weights(const Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace attn::model
