// BERT: an encoder with learned positions and token types; post-norm, layer norms, biases.
#include <string>

#include "model/config_reader.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

void read_attention(const JsonObject& json, AttentionSettings& attention) {
  constexpr std::int64_t default_positions = 512;
  attention.hidden = size_of(json, "hidden_size");
  attention.num_q_heads = attention.num_kv_heads = size_of(json, "num_attention_heads");
  if (attention.hidden % attention.num_q_heads != 0) {
    json.refuse("hidden_size",
                "a multiple of num_attention_heads " + std::to_string(attention.num_q_heads));
  }
  attention.head_dim = attention.hidden / attention.num_q_heads;
  attention.max_positions =
      json.integer_or("max_position_embeddings", default_positions, 1, max_positions);
  attention.options.causal.reset();
}

void read_bert(const JsonObject& json, ModelConfig& config) {
  constexpr std::int64_t default_token_types = 2;
  require_learned_positions(json);
  config.family = Family::bert;
  const std::int64_t num_layers = json.integer("num_hidden_layers", 1, max_layers);
  config.settings.vocab_size = size_of(json, "vocab_size");
  config.num_token_types = json.integer_or("type_vocab_size", default_token_types, 1, max_size);
  LayerSettings layer;
  read_attention(json, layer.attention);
  layer.norm = {NormKind::layer, epsilon_or(json, "layer_norm_eps", 1e-12)};
  layer.norm_placement = NormPlacement::after_sum;
  layer.mlp = plain_mlp(json, "hidden_act", MlpKind::gelu);
  layer.mlp_width = size_of(json, "intermediate_size");
  config.settings.layers.assign(static_cast<std::size_t>(num_layers), layer);
  config.embedding_norm = layer.norm;
}

// An encoder sees both ways, whatever these two say.
constexpr std::string_view keys_read[] = {"position_embedding_type", "is_causal",
                                          "use_bidirectional_attention"};

}  // namespace

constexpr FamilyReader bert_family{"bert", read_bert, keys_read};

}  // namespace attn::model
