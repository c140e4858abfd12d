#include <attn/functional.hpp>
#include <attn/transformer.hpp>

#include <array>

#include "support/entries.hpp"

namespace attn::test {
namespace {

constexpr std::int64_t hidden = 8, heads = 2, kv_heads = 1, head_dim = 4, vocab_size = 10;

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
          in("out.bias", {hidden}),
          in("q_norm", {head_dim}),
          in("sinks", {heads})};
}

AttentionParameters parameters(const Views& t) {
  return {
      .q = {t[0]}, .k = {t[1]}, .v = {t[2]}, .out = {t[3], t[4]}, .q_norm = t[5], .sinks = t[6]};
}

/// The memory of weights that stay as they are.
Views fixed_weights() {
  static std::array<float, 1024> zeros{};
  Views views;
  for (const Argument& weight : block_weights()) views.emplace_back(zeros.data(), weight.shape);
  return views;
}

std::vector<Entry> block_entries() {
  return {{"AttentionBlock", block_weights(),
           [](const Views& t) { AttentionBlock(settings(), parameters(t)); }},
          {"AttentionBlock::forward",
           {at_any_address(in("x", {2, 3, hidden})), at_any_address(out("y", {2, 3, hidden})),
            in("mask", {3, 3})},
           [](const Views& t) {
             AttentionBlock block(settings(), parameters(fixed_weights()));
             block.forward(t[0], {}, t[1], {.mask = t[2]});
           }},
          {"Decoder::forward",
           {{"ids", DType::i64, {1, 3}},
            in("embedding", {vocab_size, hidden}),
            out("logits", {1, 3, vocab_size})},
           [](const Views& t) {
             const Views w = fixed_weights();
             const TensorView norm(w[4].data, DType::f32, {hidden});
             const LayerSettings layer{
                 .attention = settings(), .mlp = MlpKind::gelu, .mlp_width = hidden};
             const TensorView square(w[0].data, DType::f32, {hidden, hidden});
             const LayerWeights weights{.attention_norm = {norm},
                                        .attention = parameters(w),
                                        .mlp_norm = {norm},
                                        .mlp = {.up = {square}, .down = {square}}};
             Decoder decoder({.layers = {layer}, .vocab_size = vocab_size},
                             {.embedding = t[1], .layers = {weights}, .final_norm = {norm}});
             const CacheRef none;
             decoder.forward(t[0], {&none, 1}, t[2]);
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
      {"gelu", {in("x", shape), out("y", shape)}, [](const Views& t) { gelu(t[0], t[1]); }},
      {"silu", {in("x", shape), out("y", shape)}, [](const Views& t) { silu(t[0], t[1]); }},
      {"swiglu",
       {in("gate", shape), in("up", shape), out("y", shape)},
       [](const Views& t) { swiglu(t[0], t[1], t[2]); }},
      {"rope",
       {in("x", heads_shape),
        in("tables.cos", {8, 3}),
        in("tables.sin", {8, 3}),
        {"position_ids", DType::i32, {2, 4}},
        out("y", heads_shape)},
       [](const Views& t) { rope(t[0], {.cos = t[1], .sin = t[2]}, t[3], t[4]); }},
      {"copy_into",
       {at_any_address(in("source", shape)), at_any_address(out("destination", shape))},
       [](const Views& t) { copy_into(t[0], t[1]); }}};
  entries.insert(entries.end(), others.begin(), others.end());
  return entries;
}

}  // namespace attn::test
