#include <attn/functional.hpp>
#include <attn/transformer.hpp>

#include <array>

#include "support/entries.hpp"

namespace attn::test {
namespace {

constexpr std::int64_t hidden = 8, heads = 2, kv_heads = 1, head_dim = 4, mlp_width = 6,
                       vocab_size = 10;

Argument in(const char* name, const Dims& shape) { return {name, DType::f32, shape}; }
Argument out(const char* name, const Dims& shape) { return {name, DType::f32, shape, true}; }
Argument at_any_address(Argument argument) {
  argument.any_address = true;
  return argument;
}

AttentionSettings settings() {
  return {.hidden = hidden,
          .num_q_heads = heads,
          .num_kv_heads = kv_heads,
          .head_dim = head_dim,
          .max_positions = 16};
}

std::vector<Argument> block_weights() {
  return {in("q.weight", {heads * head_dim, hidden}),
          in("k.weight", {kv_heads * head_dim, hidden}),
          in("v.weight", {kv_heads * head_dim, hidden}),
          in("out.weight", {hidden, heads * head_dim}),
          in("v.bias", {kv_heads * head_dim}),
          in("out.bias", {hidden}),
          in("q_norm", {head_dim}),
          in("k_norm", {head_dim}),
          in("alibi_slopes", {heads}),
          in("sinks", {heads})};
}

AttentionParameters parameters(const Views& t) {
  return {.q = {t[0]},
          .k = {t[1]},
          .v = {t[2], t[4]},
          .out = {t[3], t[5]},
          .q_norm = t[6],
          .k_norm = t[7],
          .alibi_slopes = t[8],
          .sinks = t[9]};
}

/// Weights that stay as they are.
Views fixed(const std::vector<Argument>& weights) {
  static std::array<float, 1024> zeros{};
  Views views;
  for (const Argument& weight : weights) views.emplace_back(zeros.data(), weight.shape);
  return views;
}

LayerSettings layer_settings() {
  return {.attention = settings(),
          .norm = {.kind = NormKind::layer},
          .mlp = MlpKind::swiglu,
          .mlp_width = mlp_width};
}

/// The weights of a layer other than those of its attention block.
std::vector<Argument> layer_weights() {
  return {in("attention_norm.scale", {hidden}),
          in("attention_norm.bias", {hidden}),
          in("mlp_norm.scale", {hidden}),
          in("mlp_norm.bias", {hidden}),
          in("gate.weight", {mlp_width, hidden}),
          in("up.weight", {mlp_width, hidden}),
          in("up.bias", {mlp_width}),
          in("down.weight", {hidden, mlp_width}),
          in("down.bias", {hidden})};
}

LayerWeights layer_parameters(const Views& t) {
  return {.attention_norm = {t[0], t[1]},
          .attention = parameters(fixed(block_weights())),
          .mlp_norm = {t[2], t[3]},
          .mlp = {.gate = {t[4]}, .up = {t[5], t[6]}, .down = {t[7], t[8]}}};
}

std::vector<Argument> decoder_weights() {
  return {in("embedding", {vocab_size, hidden}), in("positions", {16, hidden}),
          in("final_norm.scale", {hidden}), in("output", {vocab_size, hidden})};
}

Decoder decoder(const Views& t) {
  return Decoder({.layers = {layer_settings()}, .vocab_size = vocab_size},
                 {.embedding = t[0],
                  .positions = t[1],
                  .layers = {layer_parameters(fixed(layer_weights()))},
                  .final_norm = {t[2]},
                  .output = t[3]});
}

Argument kv_lens() { return {"kv_lens", DType::i64, {2}, false, {3, 2}}; }

std::vector<Entry> block_entries() {
  return {{"AttentionBlock", block_weights(),
           [](const Views& t) { AttentionBlock(settings(), parameters(t)); }},
          {"AttentionBlock::forward",
           {at_any_address(in("x", {2, 3, hidden})), at_any_address(out("y", {2, 3, hidden})),
            in("mask", {3, 3}), kv_lens()},
           [](const Views& t) {
             AttentionBlock block(settings(), parameters(fixed(block_weights())));
             block.forward(t[0], {}, t[1], {.mask = t[2], .kv_lens = t[3]});
           }},
          {"TransformerLayer", layer_weights(),
           [](const Views& t) { TransformerLayer(layer_settings(), layer_parameters(t)); }},
          {"TransformerLayer::forward",
           {out("x", {2, 3, hidden}), in("mask", {3, 3}), kv_lens()},
           [](const Views& t) {
             TransformerLayer layer(layer_settings(), layer_parameters(fixed(layer_weights())));
             layer.forward(t[0], {}, {.mask = t[1], .kv_lens = t[2]});
           }},
          {"Decoder", decoder_weights(), [](const Views& t) { decoder(t); }},
          {"Decoder::forward",
           {{"ids", DType::i64, {1, 3}}, out("logits", {1, 3, vocab_size})},
           [](const Views& t) {
             const CacheRef none;
             decoder(fixed(decoder_weights())).forward(t[0], {&none, 1}, t[1]);
           }}};
}

}  // namespace

std::vector<Entry> layer_entries() {
  std::vector<Entry> entries = block_entries();
  const Dims shape{3, 4, 6}, heads_shape{2, 3, 4, 6};
  const std::vector<Entry> others = {
      {"rms_norm",
       {in("x", shape), in("scale", {6}), out("y", shape)},
       [](const Views& t) { rms_norm(t[0], t[1], t[2]); }},
      {"layer_norm",
       {in("x", shape), in("scale", {4, 6}), in("bias", {6}), out("y", shape),
        out("statistics.mean", {3, 1, 1}), out("statistics.inverse_deviation", {3, 1, 1})},
       [](const Views& t) {
         layer_norm(t[0], t[1], t[2], t[3], {.dim = 1}, {.mean = t[4], .inverse_deviation = t[5]});
       }},
      {"layer_norm, of the last dim",
       {in("x", shape), out("y", shape), out("statistics.mean", {3, 4, 1}),
        out("statistics.inverse_deviation", {3, 4, 1})},
       [](const Views& t) {
         layer_norm(t[0], {}, {}, t[1], {}, {.mean = t[2], .inverse_deviation = t[3]});
       }},
      {"gelu", {in("x", shape), out("y", shape)}, [](const Views& t) { gelu(t[0], t[1]); }},
      {"silu", {in("x", shape), out("y", shape)}, [](const Views& t) { silu(t[0], t[1]); }},
      {"swiglu",
       {in("gate", shape), in("up", shape), out("y", shape)},
       [](const Views& t) { swiglu(t[0], t[1], t[2]); }},
      {"geglu",
       {in("gate", shape), in("up", shape), out("y", shape)},
       [](const Views& t) { geglu(t[0], t[1], t[2]); }},
      {"rope",
       {in("x", heads_shape),
        in("tables.cos", {8, 3}),
        in("tables.sin", {8, 3}),
        {"position_ids", DType::i32, {2, 4}},
        out("y", heads_shape)},
       [](const Views& t) { rope(t[0], {.cos = t[1], .sin = t[2]}, t[3], t[4]); }},
      {"rope, with tables for each sequence",
       {in("x", heads_shape), in("tables.cos", {2, 4, 3}), in("tables.sin", {2, 4, 3}),
        out("y", heads_shape)},
       [](const Views& t) { rope(t[0], {.cos = t[1], .sin = t[2]}, {}, t[3]); }},
      {"copy_as",
       {at_any_address(in("source", shape))},
       [](const Views& t) { copy_as(t[0], DType::f16); }},
      {"copy_into",
       {at_any_address(in("source", shape)), at_any_address(out("destination", shape))},
       [](const Views& t) { copy_into(t[0], t[1]); }}};
  entries.insert(entries.end(), others.begin(), others.end());
  return entries;
}

}  // namespace attn::test
