// A small decoder with random parameters.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <vector>

#include "support/plain_block.hpp"

namespace attn::test {

inline constexpr std::int64_t hidden = 40, mlp_width = 56, vocab = 50, num_layers = 3;

/// A decoder of three layers with random parameters.
struct DecoderCase {
  explicit DecoderCase(NormKind norm = NormKind::rms, MlpKind mlp = MlpKind::swiglu,
                       DType dtype = DType::f32) {
    BlockCase block{.biases = true, .qk_norms = norm == NormKind::rms, .batch = 2, .seq = 6};
    block.settings.dtype = dtype;
    block.settings.max_positions = 32;
    if (norm == NormKind::rms) block.settings.rope = RopeSettings{};
    const LayerSettings layer{
        .attention = block.settings, .norm = {norm}, .mlp = mlp, .mlp_width = mlp_width};
    settings = {.layers = std::vector<LayerSettings>(num_layers, layer), .vocab_size = vocab};
    for (std::uint64_t n = 0; n < num_layers; ++n) blocks.emplace_back(block, n);
    embedding = blocks[0].normal({vocab, hidden}, 0, 1);
    positions = blocks[0].normal({32, hidden}, 0, 1);
    scale = blocks[0].normal({hidden}, 1, 0.1);
    bias = blocks[0].normal({hidden}, 0, 0.1);
    for (StridedTensor* matrix : {&gate, &up}) *matrix = blocks[0].matrix(mlp_width, hidden);
    down = blocks[0].matrix(hidden, mlp_width);
    weights.embedding = embedding.view();
    const bool gated = mlp != MlpKind::gelu && mlp != MlpKind::gelu_tanh;
    const NormWeights norms{scale.view(),
                            norm == NormKind::layer ? TensorView(bias.view()) : TensorView{}};
    for (const BlockData& data : blocks) {
      weights.layers.push_back({.attention_norm = norms,
                                .attention = data.weights(),
                                .mlp_norm = norms,
                                .mlp = {.gate = {gated ? TensorView(gate.view()) : TensorView{}},
                                        .up = {up.view()},
                                        .down = {down.view()}}});
    }
    weights.final_norm = norms;
    if (norm == NormKind::layer) weights.positions = positions.view();
  }

  DecoderSettings settings;
  DecoderWeights weights;
  std::vector<BlockData> blocks;
  StridedTensor embedding, positions, scale, bias, gate, up, down;
};

inline const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
inline const TensorView id_view(ids.data(), {2, 6});

}  // namespace attn::test
