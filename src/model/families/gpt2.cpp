// GPT-2: layer norms, learned positions, an MLP without a gate, biases everywhere.
#include <string>

#include "model/config_reader.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

/// The key that holds a size of GPT-2: its own name of it, or the one that other families have.
std::string_view either(const JsonObject& json, std::string_view own, std::string_view other) {
  if (!json.has(own) && json.has(other)) return other;
  if (json.has(other) && json.at(other) != json.at(own))
    json.refuse(other, "the value of " + std::string(own));
  return own;
}

void read_heads(const JsonObject& json, AttentionSettings& attention) {
  constexpr std::int64_t default_positions = 1024;
  const std::string_view hidden = either(json, "n_embd", "hidden_size");
  const std::string_view heads = either(json, "n_head", "num_attention_heads");
  attention.hidden = size_of(json, hidden);
  attention.num_q_heads = attention.num_kv_heads = size_of(json, heads);
  if (attention.hidden % attention.num_q_heads != 0) {
    json.refuse(hidden, "a multiple of " + std::string(heads) + " " +
                            std::to_string(attention.num_q_heads));
  }
  attention.head_dim = attention.hidden / attention.num_q_heads;
  const std::string_view positions = either(json, "n_positions", "max_position_embeddings");
  attention.max_positions = json.integer_or(json.has(positions) ? positions : "n_ctx",
                                            default_positions, 1, max_positions);
  if (!json.flag_or("scale_attn_weights", true)) attention.options.softmax_scale = 1.0f;
}

void read_gpt2(const JsonObject& json, ModelConfig& config) {
  constexpr std::int64_t end_of_text = 50256;
  require_learned_positions(json);
  config.family = Family::gpt2;
  DecoderSettings& decoder = config.settings;
  const std::int64_t num_layers =
      json.integer(either(json, "n_layer", "num_hidden_layers"), 1, max_layers);
  decoder.vocab_size = size_of(json, "vocab_size");
  LayerSettings layer;
  read_heads(json, layer.attention);
  layer.norm = {NormKind::layer, epsilon_or(json, "layer_norm_epsilon", 1e-5)};
  layer.mlp = plain_mlp(json, "activation_function", MlpKind::gelu_tanh);
  layer.mlp_width = json.has("n_inner") ? size_of(json, "n_inner") : 4 * layer.attention.hidden;
  decoder.layers.assign(static_cast<std::size_t>(num_layers), layer);
  read_windows(json, {}, config);
  config.tied = json.flag_or("tie_word_embeddings", true);
  config.bos_id = token_id(json, "bos_token_id", end_of_text);
  config.eos_ids = token_ids(json, "eos_token_id", end_of_text);
}

constexpr std::string_view keys_read[] = {"position_embedding_type"};

}  // namespace

constexpr FamilyReader gpt2_family{"gpt2", read_gpt2, keys_read};

}  // namespace attn::model
