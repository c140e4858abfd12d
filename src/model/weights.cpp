#include "model/weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/message.hpp"

namespace attn::model {
namespace {

/// Looks up a model's parameters by name, checks their shapes and types, and keeps account of those
/// that are missing and those that nobody asked for.
class ParameterReader {
 public:
  /// Names begin with `prefix` where the whole model was saved, and without it where only its body
  /// was. If the checkpoint holds `first` without the prefix, it is the body.
  ParameterReader(const Checkpoint& checkpoint, const std::string& prefix, const std::string& first)
      : checkpoint_(checkpoint), prefix_(checkpoint.contains(first) ? "" : prefix) {}

  /// A tensor of the body. One that is missing is an absent view until check_complete() throws.
  TensorView tensor(const std::string& name, const Dims& shape) {
    return unprefixed_tensor(prefix_ + name, shape);
  }
  /// A tensor outside of the body, whose name has no prefix.
  TensorView unprefixed_tensor(const std::string& name, const Dims& shape);
  bool has_unprefixed(const std::string& name) const { return checkpoint_.contains(name); }
  /// Some files hold this tensor, and the model does not need it.
  void ignore(const std::string& name) { known_.insert(prefix_ + name); }
  /// The same for all tensors whose names begin so, outside of the body or in it.
  void ignore_all(const std::string& beginning) { ignored_.push_back(beginning); }
  /// Throws for missing and for unknown tensors.
  void check_complete() const;

  /// A projection as PyTorch's Linear stores it: weight [out, in], and perhaps bias [out].
  LinearWeights linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias);
  /// Some outputs of a fused projection, which may be missing.
  static LinearWeights part(const LinearWeights& fused, std::int64_t begin, std::int64_t end) {
    return fused.weight.absent() ? LinearWeights{} : part_of(fused, begin, end);
  }
  /// A projection as GPT-2's Conv1D stores it: weight [in, out] and bias [out]. The view that is
  /// returned is [out, in].
  LinearWeights conv1d(const std::string& name, std::int64_t in, std::int64_t out);
  /// A LayerNorm: weight and bias, both [width], or by their names in TensorFlow gamma and beta.
  NormWeights layer_norm(const std::string& name, std::int64_t width);

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
  bool is_known(const std::string& name) const {
    return known_.contains(name) ||
           std::ranges::any_of(ignored_, [&](const std::string& b) { return name.starts_with(b); });
  }

  std::set<std::string> known_;
  std::vector<std::string> ignored_, missing_;
};

TensorView ParameterReader::unprefixed_tensor(const std::string& name, const Dims& shape) {
  known_.insert(name);
  if (!checkpoint_.contains(name)) {
    missing_.push_back(name);
    return {};
  }
  const TensorView found = checkpoint_.tensor(name);
  const auto refuse = [&](std::string_view what, std::string_view got, std::string_view needed) {
    io::fail(checkpoint_.file_of(name), fmt::format("tensor {} has {} {}; it needs {}",
                                                    io::in_quotes(name), what, got, needed));
  };
  if (found.shape != shape) refuse("shape", found.shape.to_string(), shape.to_string());
  if (found.dtype != DType::f32 && found.dtype != DType::bf16 && found.dtype != DType::f16) {
    refuse("type", name_of(found.dtype), "f32, bf16 or f16");
  }
  return found;
}

void ParameterReader::check_complete() const {
  constexpr std::size_t max_listed = 5;
  std::vector<std::string> unknown;
  for (const std::string& name : checkpoint_.names()) {
    if (!is_known(name)) unknown.push_back(name);
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
  LinearWeights weights{.weight = tensor(name + ".weight", {out, in})};
  if (bias) weights.bias = tensor(name + ".bias", {out});
  return weights;
}

LinearWeights ParameterReader::conv1d(const std::string& name, std::int64_t in, std::int64_t out) {
  LinearWeights weights{.weight = tensor(name + ".weight", {in, out}),
                        .bias = tensor(name + ".bias", {out})};
  if (!weights.weight.absent()) weights.weight = weights.weight.permuted({1, 0});
  return weights;
}

NormWeights ParameterReader::layer_norm(const std::string& name, std::int64_t width) {
  const bool older = checkpoint_.contains(prefix_ + name + ".gamma");
  return {.scale = tensor(name + (older ? ".gamma" : ".weight"), {width}),
          .bias = tensor(name + (older ? ".beta" : ".bias"), {width})};
}

/// The projection from the last hidden state to the vocabulary. If the model ties it to the
/// embedding it is absent, unless the file holds one all the same: that one is used.
TensorView read_output(ParameterReader& reader, const ModelConfig& config) {
  const std::string name = "lm_head.weight";
  if (config.tied && !reader.has_unprefixed(name)) return {};
  return reader.unprefixed_tensor(
      name, {config.settings.vocab_size, config.settings.layers.front().attention.hidden});
}

AttentionParameters read_llama_attention(ParameterReader& reader, const ModelConfig& config,
                                         const AttentionSettings& settings,
                                         const std::string& name) {
  const std::int64_t hidden = settings.hidden, dim = settings.head_dim;
  const std::int64_t q_width = settings.num_q_heads * dim, kv_width = settings.num_kv_heads * dim;
  AttentionParameters weights;
  if (config.fused) {
    const LinearWeights all =
        reader.linear(name + "qkv_proj", q_width + 2 * kv_width, hidden, config.qkv_bias);
    weights.q = ParameterReader::part(all, 0, q_width);
    weights.k = ParameterReader::part(all, q_width, q_width + kv_width);
    weights.v = ParameterReader::part(all, q_width + kv_width, q_width + 2 * kv_width);
  } else {
    weights.q = reader.linear(name + "q_proj", q_width, hidden, config.qkv_bias);
    weights.k = reader.linear(name + "k_proj", kv_width, hidden, config.qkv_bias);
    weights.v = reader.linear(name + "v_proj", kv_width, hidden, config.qkv_bias);
  }
  weights.out = reader.linear(name + "o_proj", hidden, q_width, config.out_bias);
  if (config.qk_norm) {
    const bool all = config.qk_norm == QkNorm::all_heads;
    weights.q_norm = reader.tensor(name + "q_norm.weight", {all ? q_width : dim});
    weights.k_norm = reader.tensor(name + "k_norm.weight", {all ? kv_width : dim});
  }
  // Old versions saved the frequencies of RoPE, which the settings determine.
  reader.ignore(name + "rotary_emb.inv_freq");
  return weights;
}

MlpWeights read_llama_mlp(ParameterReader& reader, const ModelConfig& config,
                          const LayerSettings& layer, const std::string& name) {
  const std::int64_t hidden = layer.attention.hidden, width = layer.mlp_width;
  MlpWeights weights;
  if (config.fused) {
    const LinearWeights both =
        reader.linear(name + "gate_up_proj", 2 * width, hidden, config.mlp_bias);
    weights.gate = ParameterReader::part(both, 0, width);
    weights.up = ParameterReader::part(both, width, 2 * width);
  } else {
    weights.gate = reader.linear(name + "gate_proj", width, hidden, config.mlp_bias);
    weights.up = reader.linear(name + "up_proj", width, hidden, config.mlp_bias);
  }
  weights.down = reader.linear(name + "down_proj", hidden, width, config.mlp_bias);
  return weights;
}

LayerWeights read_llama_layer(ParameterReader& reader, const ModelConfig& config,
                              std::size_t index) {
  const LayerSettings& layer = config.settings.layers[index];
  const std::string name = fmt::format("layers.{}.", index);
  const NormPlacement placement = layer.norm_placement;
  const auto read_norm = [&](NormWeights& norm, const char* norm_name) {
    norm.scale = reader.tensor(name + norm_name + "_layernorm.weight", {layer.attention.hidden});
  };
  LayerWeights weights;
  if (placement != NormPlacement::after) read_norm(weights.attention_norm, "input");
  weights.attention = read_llama_attention(reader, config, layer.attention, name + "self_attn.");
  // Where there is one norm for each part, post_attention is the name of the one before the MLP.
  if (placement == NormPlacement::before) {
    read_norm(weights.mlp_norm, "post_attention");
  } else {
    read_norm(weights.attention_post_norm, "post_attention");
    if (placement == NormPlacement::both) read_norm(weights.mlp_norm, "pre_feedforward");
    read_norm(weights.mlp_post_norm, "post_feedforward");
  }
  weights.mlp = read_llama_mlp(reader, config, layer, name + "mlp.");
  return weights;
}

constexpr const char* llama_embedding = "embed_tokens.weight";

/// What comes before the output projection.
DecoderWeights read_llama_body(ParameterReader& reader, const ModelConfig& config) {
  const std::string embedding = llama_embedding;
  const std::int64_t hidden = config.settings.layers.front().attention.hidden;
  DecoderWeights weights;
  weights.embedding = reader.tensor(embedding, {config.settings.vocab_size, hidden});
  for (std::size_t n = 0; n < config.settings.layers.size(); ++n)
    weights.layers.push_back(read_llama_layer(reader, config, n));
  weights.final_norm.scale = reader.tensor("norm.weight", {hidden});
  reader.ignore("rotary_emb.inv_freq");
  return weights;
}

DecoderWeights read_llama(const Checkpoint& checkpoint, const ModelConfig& config) {
  ParameterReader reader(checkpoint, "model.", llama_embedding);
  DecoderWeights weights = read_llama_body(reader, config);
  weights.output = read_output(reader, config);
  reader.check_complete();
  return weights;
}

EncoderWeights read_llama_encoder(const Checkpoint& checkpoint, const ModelConfig& config) {
  ParameterReader reader(checkpoint, "model.", llama_embedding);
  DecoderWeights body = read_llama_body(reader, config);
  reader.ignore_all("lm_head.");
  reader.check_complete();
  return {
      .embedding = body.embedding, .layers = std::move(body.layers), .final_norm = body.final_norm};
}

LayerWeights read_gpt2_layer(ParameterReader& reader, const ModelConfig& config,
                             std::size_t index) {
  const LayerSettings& layer = config.settings.layers[index];
  const std::string name = fmt::format("h.{}.", index);
  const std::int64_t hidden = layer.attention.hidden;
  LayerWeights weights;
  weights.attention_norm = reader.layer_norm(name + "ln_1", hidden);
  const LinearWeights qkv = reader.conv1d(name + "attn.c_attn", hidden, 3 * hidden);
  weights.attention.q = ParameterReader::part(qkv, 0, hidden);
  weights.attention.k = ParameterReader::part(qkv, hidden, 2 * hidden);
  weights.attention.v = ParameterReader::part(qkv, 2 * hidden, 3 * hidden);
  weights.attention.out = reader.conv1d(name + "attn.c_proj", hidden, hidden);
  weights.mlp_norm = reader.layer_norm(name + "ln_2", hidden);
  weights.mlp.up = reader.conv1d(name + "mlp.c_fc", hidden, layer.mlp_width);
  weights.mlp.down = reader.conv1d(name + "mlp.c_proj", layer.mlp_width, hidden);
  // Old versions saved the causal mask.
  reader.ignore(name + "attn.bias");
  reader.ignore(name + "attn.masked_bias");
  return weights;
}

DecoderWeights read_gpt2(const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::string embedding = "wte.weight";
  const AttentionSettings& attention = config.settings.layers.front().attention;
  ParameterReader reader(checkpoint, "transformer.", embedding);
  DecoderWeights weights;
  weights.embedding = reader.tensor(embedding, {config.settings.vocab_size, attention.hidden});
  weights.positions = reader.tensor("wpe.weight", {attention.max_positions, attention.hidden});
  for (std::size_t n = 0; n < config.settings.layers.size(); ++n)
    weights.layers.push_back(read_gpt2_layer(reader, config, n));
  weights.final_norm = reader.layer_norm("ln_f", attention.hidden);
  weights.output = read_output(reader, config);
  reader.check_complete();
  return weights;
}

LayerWeights read_bert_layer(ParameterReader& reader, const ModelConfig& config,
                             std::size_t index) {
  const LayerSettings& layer = config.settings.layers[index];
  const std::int64_t hidden = layer.attention.hidden, width = layer.mlp_width;
  const std::string name = fmt::format("encoder.layer.{}.", index);
  LayerWeights weights;
  weights.attention.q = reader.linear(name + "attention.self.query", hidden, hidden, true);
  weights.attention.k = reader.linear(name + "attention.self.key", hidden, hidden, true);
  weights.attention.v = reader.linear(name + "attention.self.value", hidden, hidden, true);
  weights.attention.out = reader.linear(name + "attention.output.dense", hidden, hidden, true);
  weights.attention_post_norm = reader.layer_norm(name + "attention.output.LayerNorm", hidden);
  weights.mlp.up = reader.linear(name + "intermediate.dense", width, hidden, true);
  weights.mlp.down = reader.linear(name + "output.dense", hidden, width, true);
  weights.mlp_post_norm = reader.layer_norm(name + "output.LayerNorm", hidden);
  return weights;
}

EncoderWeights read_bert(const Checkpoint& checkpoint, const ModelConfig& config) {
  const std::string table = "embeddings.", embedding = table + "word_embeddings.weight";
  const AttentionSettings& attention = config.settings.layers.front().attention;
  const std::int64_t hidden = attention.hidden;
  ParameterReader reader(checkpoint, "bert.", embedding);
  EncoderWeights weights;
  weights.embedding = reader.tensor(embedding, {config.settings.vocab_size, hidden});
  weights.positions =
      reader.tensor(table + "position_embeddings.weight", {attention.max_positions, hidden});
  weights.token_types =
      reader.tensor(table + "token_type_embeddings.weight", {config.num_token_types, hidden});
  weights.embedding_norm = reader.layer_norm(table + "LayerNorm", hidden);
  for (std::size_t n = 0; n < config.settings.layers.size(); ++n)
    weights.layers.push_back(read_bert_layer(reader, config, n));
  reader.ignore(table + "position_ids");
  for (const char* const other : {"pooler.", "bert.pooler.", "cls.", "classifier.", "qa_outputs."})
    reader.ignore_all(other);
  reader.check_complete();
  return weights;
}

}  // namespace

EncoderWeights collect_encoder_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  return config.family == Family::bert ? read_bert(checkpoint, config)
                                       : read_llama_encoder(checkpoint, config);
}

DecoderWeights collect_weights(const Checkpoint& checkpoint, const ModelConfig& config) {
  return config.family == Family::gpt2 ? read_gpt2(checkpoint, config)
                                       : read_llama(checkpoint, config);
}

}  // namespace attn::model
