#include "model/config_reader.hpp"

#include <string>

namespace attn::model {

using io::JsonObject;

namespace {

void read_heads(const JsonObject& json, const LlamaDefaults& defaults,
                AttentionSettings& attention) {
  attention.hidden = size_of(json, "hidden_size");
  attention.num_q_heads = size_of(json, "num_attention_heads");
  attention.num_kv_heads = attention.num_q_heads;
  if (!json.is_null("num_key_value_heads")) {
    attention.num_kv_heads = json.integer_or(
        "num_key_value_heads", defaults.num_kv_heads.value_or(attention.num_q_heads), 1, max_size);
  }
  if (attention.num_q_heads % attention.num_kv_heads != 0) {
    json.refuse("num_attention_heads",
                "a multiple of num_key_value_heads " + std::to_string(attention.num_kv_heads));
  }
  const bool own_dim = json.has("head_dim") || (defaults.head_dim && !json.is_null("head_dim"));
  if (!own_dim && attention.hidden % attention.num_q_heads != 0) {
    json.refuse("hidden_size",
                "a multiple of num_attention_heads " + std::to_string(attention.num_q_heads));
  }
  attention.head_dim = own_dim
                           ? json.integer_or("head_dim", defaults.head_dim.value_or(0), 1, max_size)
                           : attention.hidden / attention.num_q_heads;
}

enum class Activation { silu, gelu, gelu_tanh };

/// The activation that the key names, without silu unless it is `gated`.
std::optional<Activation> activation(const JsonObject& json, std::string_view key, bool gated) {
  if (!json.has(key)) return std::nullopt;
  const std::string& name = json.text(key);
  if (gated && (name == "silu" || name == "swish")) return Activation::silu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  json.unsupported(
      key, std::string(gated ? "silu, " : "") + "gelu, gelu_new, gelu_fast or gelu_pytorch_tanh");
}

}  // namespace

std::int64_t size_of(const JsonObject& json, std::string_view key) {
  return json.integer(key, 1, max_size);
}

double number_not_null_or(const JsonObject& json, std::string_view key, double missing, double low,
                          double high) {
  return json.is_null(key) ? json.number(key, low, high) : json.number_or(key, missing, low, high);
}

float epsilon_or(const JsonObject& json, std::string_view key, double missing) {
  return static_cast<float>(number_not_null_or(json, key, missing, 0, 1));
}

std::optional<float> positive_number(const JsonObject& json, std::string_view key) {
  constexpr double smallest = 1e-30, greatest = 1e30;
  if (!json.has(key)) return std::nullopt;
  return static_cast<float>(json.number(key, smallest, greatest));
}

std::optional<std::int64_t> token_id(const JsonObject& json, std::string_view key,
                                     std::optional<std::int64_t> missing) {
  if (json.is_null(key)) return std::nullopt;
  return json.has(key) ? json.integer(key, 0, max_size) : missing;
}

std::vector<std::int64_t> token_ids(const JsonObject& json, std::string_view key,
                                    std::optional<std::int64_t> missing) {
  if (json.has(key) && json.at(key).is_array()) return json.integers(key, 0, max_size);
  const std::optional<std::int64_t> id = token_id(json, key, missing);
  return id ? std::vector{*id} : std::vector<std::int64_t>{};
}

MlpKind gated_mlp(const JsonObject& json, std::string_view key, MlpKind missing) {
  const std::optional<Activation> named = activation(json, key, true);
  if (!named) return missing;
  switch (*named) {
    case Activation::silu: return MlpKind::swiglu;
    case Activation::gelu: return MlpKind::geglu;
    case Activation::gelu_tanh: return MlpKind::geglu_tanh;
  }
  return missing;
}

MlpKind plain_mlp(const JsonObject& json, std::string_view key, MlpKind missing) {
  const std::optional<Activation> named = activation(json, key, false);
  if (!named) return missing;
  return *named == Activation::gelu ? MlpKind::gelu : MlpKind::gelu_tanh;
}

void require_learned_positions(const JsonObject& json) {
  constexpr std::string_view key = "position_embedding_type";
  if (json.has(key) && json.at(key) != "absolute") json.unsupported(key, "\"absolute\"");
}

void require_silu(const JsonObject& json) {
  constexpr std::string_view key = "hidden_act";
  if (json.has(key) && json.text(key) != "silu" && json.text(key) != "swish")
    json.unsupported(key, "silu");
}

void read_llama_sizes(const JsonObject& json, const LlamaDefaults& defaults, ModelConfig& config) {
  config.family = Family::llama;
  const std::int64_t num_layers = json.integer("num_hidden_layers", 1, max_layers);
  config.settings.vocab_size = size_of(json, "vocab_size");
  LayerSettings layer;
  AttentionSettings& attention = layer.attention;
  read_heads(json, defaults, attention);
  layer.mlp_width = size_of(json, "intermediate_size");
  layer.norm = {.epsilon = epsilon_or(json, "rms_norm_eps", defaults.epsilon)};
  attention.qk_norm = layer.norm;
  attention.max_positions =
      json.integer_or("max_position_embeddings", defaults.max_positions, 1, max_positions);
  config.settings.layers.assign(static_cast<std::size_t>(num_layers), layer);
  config.tied = json.flag_or("tie_word_embeddings", defaults.tied);
  config.bos_id = token_id(json, "bos_token_id", defaults.bos_id);
  config.eos_ids = token_ids(json, "eos_token_id", defaults.eos_id);
}

void read_attention_bias(const JsonObject& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.flag_or("attention_bias", false);
}

}  // namespace attn::model
