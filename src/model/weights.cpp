#include "model/weights.hpp"

#include <fmt/format.h>

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/message.hpp"

namespace attn::model {
namespace {

/// Takes tensors out of a checkpoint, and keeps account of what is missing and what is left.
class ParameterReader {
 public:
  /// Names begin with `prefix` where the whole model was saved, and without it where its body alone
  /// was: `first` tells.
  ParameterReader(const Checkpoint& checkpoint, const std::string& prefix, const std::string& first)
      : checkpoint_(checkpoint), prefix_(checkpoint.contains(first) ? "" : prefix) {}

  /// A tensor of the body, of this shape. A missing one is absent until finish().
  TensorView take(const std::string& name, const Dims& shape) {
    return take_named(prefix_ + name, shape);
  }
  TensorView take_named(const std::string& name, const Dims& shape);
  /// A tensor that may be there, and of which nothing is needed.
  void skip(const std::string& name) { known_.insert(prefix_ + name); }
  bool has_named(const std::string& name) const { return checkpoint_.contains(name); }
  /// Throws for missing and for unknown tensors.
  void finish() const;

  /// A projection as PyTorch's Linear has it: weight [out, in], and perhaps a bias.
  LinearWeights linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias);
  /// One as GPT-2's Conv1D has it: weight [in, out], and a bias.
  LinearWeights transposed(const std::string& name, std::int64_t in, std::int64_t out);

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
  std::set<std::string> known_;
  std::vector<std::string> missing_;
};

TensorView ParameterReader::take_named(const std::string& name, const Dims& shape) {
  known_.insert(name);
  if (!checkpoint_.contains(name)) {
    missing_.push_back(name);
    return {};
  }
  const TensorView tensor = checkpoint_.tensor(name);
  const auto refuse = [&](std::string_view what, std::string_view got, std::string_view needed) {
    io::fail(checkpoint_.file_of(name), fmt::format("tensor {} has {} {}; it needs {}",
                                                    io::in_quotes(name), what, got, needed));
  };
  if (tensor.shape != shape) refuse("shape", tensor.shape.to_string(), shape.to_string());
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16 && tensor.dtype != DType::f16) {
    refuse("type", name_of(tensor.dtype), "f32, bf16 or f16");
  }
  return tensor;
}

void ParameterReader::finish() const {
  constexpr std::size_t max_listed = 5;
  std::vector<std::string> unknown;
  for (const std::string& name : checkpoint_.names()) {
    if (!known_.contains(name)) unknown.push_back(name);
  }
  std::string faults;
  if (!missing_.empty())
    faults = fmt::format("of its tensors, {} missing: {}", missing_.size(),
                         io::list_names(missing_, max_listed));
  if (!unknown.empty()) {
    faults += fmt::format("{}{} that the model does not have: {}",
                          faults.empty() ? "of its tensors, " : "; ", unknown.size(),
                          io::list_names(unknown, max_listed));
  }
  if (!faults.empty()) io::fail(checkpoint_.folder(), faults);
}

LinearWeights ParameterReader::linear(const std::string& name, std::int64_t out, std::int64_t in,
                                      bool bias) {
  LinearWeights weights{.weight = take(name + ".weight", {out, in})};
  if (bias) weights.bias = take(name + ".bias", {out});
  return weights;
}

LinearWeights ParameterReader::transposed(const std::string& name, std::int64_t in,
                                          std::int64_t out) {
  LinearWeights weights{.weight = take(name + ".weight", {in, out}),
                        .bias = take(name + ".bias", {out})};
  if (!weights.weight.absent()) weights.weight = weights.weight.permuted({1, 0});
  return weights;
}

/// The last projection, to the vocabulary. Tied, it is the embedding; but what a file says in so
/// many numbers is believed first.
TensorView take_output(ParameterReader& taker, const ModelConfig& config) {
  const std::string name = "lm_head.weight";
  if (config.tied && !taker.has_named(name)) return {};
  return taker.take_named(name,
                          {config.settings.vocab_size, config.settings.layer.attention.hidden});
}

LayerWeights llama_layer(ParameterReader& taker, const ModelConfig& config,
                         const std::string& name) {
  const LayerSettings& layer = config.settings.layer;
  const std::int64_t hidden = layer.attention.hidden, head_dim = layer.attention.head_dim;
  const std::int64_t q_width = layer.attention.num_q_heads * head_dim,
                     kv_width = layer.attention.num_kv_heads * head_dim;
  const std::string attention = name + "self_attn.", mlp = name + "mlp.";
  LayerWeights weights;
  weights.attention_norm.scale = taker.take(name + "input_layernorm.weight", {hidden});
  weights.attention.q = taker.linear(attention + "q_proj", q_width, hidden, config.qkv_bias);
  weights.attention.k = taker.linear(attention + "k_proj", kv_width, hidden, config.qkv_bias);
  weights.attention.v = taker.linear(attention + "v_proj", kv_width, hidden, config.qkv_bias);
  weights.attention.out = taker.linear(attention + "o_proj", hidden, q_width, config.out_bias);
  if (config.qk_norm) {
    weights.attention.q_norm = taker.take(attention + "q_norm.weight", {head_dim});
    weights.attention.k_norm = taker.take(attention + "k_norm.weight", {head_dim});
  }
  weights.mlp_norm.scale = taker.take(name + "post_attention_layernorm.weight", {hidden});
  weights.mlp.gate = taker.linear(mlp + "gate_proj", layer.mlp_width, hidden, config.mlp_bias);
  weights.mlp.up = taker.linear(mlp + "up_proj", layer.mlp_width, hidden, config.mlp_bias);
  weights.mlp.down = taker.linear(mlp + "down_proj", hidden, layer.mlp_width, config.mlp_bias);
  taker.skip(attention + "rotary_emb.inv_freq");  // a buffer that old versions saved
  return weights;
}

DecoderWeights llama_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::string embedding = "embed_tokens.weight";
  const std::int64_t hidden = config.settings.layer.attention.hidden;
  ParameterReader taker(checkpoint, "model.", embedding);
  DecoderWeights weights;
  weights.embedding = taker.take(embedding, {config.settings.vocab_size, hidden});
  for (std::int64_t n = 0; n < config.settings.num_layers; ++n) {
    weights.layers.push_back(llama_layer(taker, config, fmt::format("layers.{}.", n)));
  }
  weights.final_norm.scale = taker.take("norm.weight", {hidden});
  weights.output = take_output(taker, config);
  taker.skip("rotary_emb.inv_freq");
  taker.finish();
  return weights;
}

NormWeights layer_norm_weights(ParameterReader& taker, const std::string& name,
                               std::int64_t width) {
  return {.scale = taker.take(name + ".weight", {width}),
          .bias = taker.take(name + ".bias", {width})};
}

LayerWeights gpt2_layer(ParameterReader& taker, const ModelConfig& config,
                        const std::string& name) {
  const LayerSettings& layer = config.settings.layer;
  const std::int64_t hidden = layer.attention.hidden;
  LayerWeights weights;
  weights.attention_norm = layer_norm_weights(taker, name + "ln_1", hidden);
  const LinearWeights qkv = taker.transposed(name + "attn.c_attn", hidden, 3 * hidden);
  if (!qkv.weight.absent()) {
    weights.attention.q = part_of(qkv, 0, hidden);
    weights.attention.k = part_of(qkv, hidden, 2 * hidden);
    weights.attention.v = part_of(qkv, 2 * hidden, 3 * hidden);
  }
  weights.attention.out = taker.transposed(name + "attn.c_proj", hidden, hidden);
  weights.mlp_norm = layer_norm_weights(taker, name + "ln_2", hidden);
  weights.mlp.up = taker.transposed(name + "mlp.c_fc", hidden, layer.mlp_width);
  weights.mlp.down = taker.transposed(name + "mlp.c_proj", layer.mlp_width, hidden);
  // The causal mask, which old versions saved as buffers.
  taker.skip(name + "attn.bias");
  taker.skip(name + "attn.masked_bias");
  return weights;
}

DecoderWeights gpt2_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::string embedding = "wte.weight";
  const AttentionSettings& attention = config.settings.layer.attention;
  ParameterReader taker(checkpoint, "transformer.", embedding);
  DecoderWeights weights;
  weights.embedding = taker.take(embedding, {config.settings.vocab_size, attention.hidden});
  weights.positions = taker.take("wpe.weight", {attention.max_positions, attention.hidden});
  for (std::int64_t n = 0; n < config.settings.num_layers; ++n) {
    weights.layers.push_back(gpt2_layer(taker, config, fmt::format("h.{}.", n)));
  }
  weights.final_norm = layer_norm_weights(taker, "ln_f", attention.hidden);
  weights.output = take_output(taker, config);
  taker.finish();
  return weights;
}

}  // namespace

DecoderWeights collect_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  return config.family == Family::gpt2 ? gpt2_weights(checkpoint, config)
                                       : llama_weights(checkpoint, config);
}

}  // namespace attn::model
