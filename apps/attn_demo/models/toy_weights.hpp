// Models with random weights that have the structure of real families.
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
  DType dtype = DType::f32;  // type of the weights and of the computation
  std::uint64_t seed = 0;
};

/// The settings and weights of a model. The weights are views of `tensors`.
struct ToyWeights {
  DecoderSettings settings;
  DecoderWeights weights;
  std::vector<Tensor> tensors;
};

/// Throws attn::Error if the heads do not divide hidden.
DecoderSettings toy_settings(const ToyShape& shape);

/// Makes the weights. A Llama has RMS norms, RoPE, SwiGLU of width 8/3 hidden rounded up to a
/// multiple of 256, and no biases. A GPT-2 has layer norms, learned positions, GELU in its tanh
/// form of width 4 hidden, and biases. The output projection is not tied to the embedding, because
/// a tied one would repeat the last token. Weights are normal; their standard deviation keeps the
/// residual stream of order 1 and gives logits a standard deviation of 2. The same shape and seed
/// give the same bits. Throws attn::Error like toy_settings.
ToyWeights make_toy_weights(const ToyShape& shape);

}  // namespace attn::apps::demo
