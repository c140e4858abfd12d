// Models with random weights, in the shapes of real families.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <vector>

namespace attn::apps::demo {

enum class Family { llama, gpt2 };

struct ToyShape {
  Family family = Family::llama;
  std::int64_t num_layers = 4;
  std::int64_t hidden = 512;
  std::int64_t num_q_heads = 8;
  std::int64_t num_kv_heads = 2;
  std::int64_t vocab_size = 256;
  std::int64_t max_positions = 0;
  DType dtype = DType::f32;  // of weights and of computing
  std::uint64_t seed = 0;
};

/// Settings, weights, and the tensors that those are views of.
struct ToyWeights {
  DecoderSettings settings;
  DecoderWeights weights;
  std::vector<Tensor> tensors;
};

/// Throws attn::Error for heads that do not divide hidden.
DecoderSettings toy_settings(const ToyShape& shape);

/// Llama: RMS norms, rope, SwiGLU of 8/3 hidden rounded up to a multiple of 256, no biases. GPT-2:
/// layer norms, learned positions, GELU's tanh form of 4 hidden, biases. Both with an output of its
/// own, as a tied one would repeat the last token. Weights are normal, of a deviation that keeps
/// the residual stream of order 1 and gives logits one of 2; the same shape and seed give the same
/// bits. Throws attn::Error as toy_settings.
ToyWeights make_toy_weights(const ToyShape& shape);

}  // namespace attn::apps::demo
