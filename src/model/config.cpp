#include "model/config.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <string_view>

#include "io/json.hpp"
#include "model/config_keys.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

/// With this limit the product of two sizes is far from overflow.
constexpr std::int64_t max_size = std::numeric_limits<std::int32_t>::max();
/// The size of a file does not bound these two, which decide how much memory is allocated.
constexpr std::int64_t max_layers = 10'000;
constexpr std::int64_t max_positions = 1 << 24;
constexpr double smallest = 1e-30;
constexpr double max_theta = 1e15;
constexpr double max_factor = 1e6;

/// The default values that differ between the variants of Llama.
struct LlamaVariant {
  std::string_view model_type;
  std::optional<std::int64_t> num_kv_heads;  // default: as many as query heads
  std::optional<std::int64_t> head_dim;      // default: hidden / heads
  std::int64_t max_positions;
  std::optional<std::int64_t> bos_id, eos_id;
};
constexpr std::array<LlamaVariant, 4> llama_variants{{{"llama", {}, {}, 2048, 1, 2},
                                                      {"mistral", 8, {}, 131072, 1, 2},
                                                      {"qwen2", 32, {}, 32768, {}, {}},
                                                      {"qwen3", 32, 128, 32768, {}, {}}}};
constexpr std::int64_t default_sliding_window = 4096;

std::int64_t size(const JsonObject& json, std::string_view key) {
  return json.integer(key, 1, max_size);
}

/// A number whose null is no missing key: the models of such a file run nowhere.
double number_not_null_or(const JsonObject& json, std::string_view key, double missing, double low,
                          double high) {
  return json.is_null(key) ? json.number(key, low, high) : json.number_or(key, missing, low, high);
}

float epsilon_or(const JsonObject& json, std::string_view key, double missing) {
  return static_cast<float>(number_not_null_or(json, key, missing, 0, 1));
}

/// Null means that the model has no such token, even if the key has a default.
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

/// The weights of a quantized model are codes, whatever their element type.
void refuse_quantized(const JsonObject& json) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (json.has(key)) json.unsupported(key, "f32, f16 or bf16 weights");
  }
}

// -------------------------------------------------------------------------------------------------
// rope

constexpr std::string_view theta_key = "rope_theta", partial_key = "partial_rotary_factor";

/// The keys that describe a model's rotary positions.
struct RopeKeys {
  const JsonObject& json;
  std::optional<JsonObject> parameters;  // rope_scaling or rope_parameters

  /// A value among the parameters takes precedence over one at the top level.
  const JsonObject& holder_of(std::string_view key) const {
    return parameters && parameters->has(key) ? *parameters : json;
  }
};

/// Older files have rope_theta, rope_scaling and partial_rotary_factor at the top level, newer ones
/// have them inside of rope_parameters.
RopeKeys find_rope(const JsonObject& json) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!json.has(key)) continue;
    const JsonObject parameters = json.object(key);
    if (parameters.keys().empty()) continue;
    if (parameters.is_null(theta_key)) parameters.refuse(theta_key, "a number");
    for (const std::string_view name : parameters.keys()) {
      if (parameters.at(name).is_object() || name.ends_with("_attention"))
        parameters.unsupported(name, "the same positions in all layers");
    }
    return {json, parameters};
  }
  return {json, {}};
}

std::int64_t original_positions(const RopeKeys& keys, std::int64_t model_positions) {
  constexpr std::string_view key = "original_max_position_embeddings";
  const std::int64_t outside = keys.json.integer_or(key, model_positions, 1, max_positions);
  const std::int64_t inside = keys.parameters->integer_or(key, outside, 1, max_positions);
  if (keys.json.has(key) && inside != outside)
    keys.json.refuse(key, "the " + std::to_string(inside) + " of the rope parameters");
  return inside;
}

Llama3RopeScaling llama3_scaling(const RopeKeys& keys, std::int64_t model_positions) {
  const JsonObject& json = *keys.parameters;
  Llama3RopeScaling scaling;
  scaling.factor = json.number("factor", 1, max_factor);
  scaling.low_freq_factor = json.number("low_freq_factor", smallest, max_factor);
  scaling.high_freq_factor = json.number("high_freq_factor", smallest, max_factor);
  scaling.original_max_positions = original_positions(keys, model_positions);
  if (!(scaling.low_freq_factor < scaling.high_freq_factor))
    json.refuse("low_freq_factor", "to be smaller than high_freq_factor");
  return scaling;
}

void set_scaling(const RopeKeys& keys, std::int64_t model_positions, RopeSettings& rope) {
  const JsonObject& json = *keys.parameters;
  const std::string_view type_key =
      json.has("type") && !json.has("rope_type") ? "type" : "rope_type";
  if (!json.has(type_key) && !json.has("factor")) return;
  const std::string& type = json.text(type_key);
  if (type == "linear")
    rope.scaling = LinearRopeScaling{json.number("factor", 1, max_factor)};
  else if (type == "llama3")
    rope.scaling = llama3_scaling(keys, model_positions);
  else if (type == "dynamic")
    rope.scaling = DynamicRopeScaling{json.number("factor", 1, max_factor)};
  else if (type != "default")
    json.unsupported(type_key, "default, dynamic, linear or llama3");
}

/// The number of elements that are rotated, which is even and at least 2.
std::int64_t rotary_dim(const JsonObject& json, std::int64_t head_dim) {
  const auto dim =
      static_cast<std::int64_t>(static_cast<double>(head_dim) * json.number(partial_key, 0, 1));
  if (dim < 2 || dim % 2 != 0)
    json.refuse(partial_key, "an even number of elements of head_dim " + std::to_string(head_dim));
  return dim;
}

RopeSettings read_rope(const JsonObject& json, std::int64_t head_dim,
                       std::int64_t model_positions) {
  const RopeKeys keys = find_rope(json);
  RopeSettings rope;
  rope.theta =
      number_not_null_or(keys.holder_of(theta_key), theta_key, rope.theta, smallest, max_theta);
  const JsonObject& holder = keys.holder_of(partial_key);
  if (holder.has(partial_key)) rope.rotary_dim = rotary_dim(holder, head_dim);
  if (keys.parameters) set_scaling(keys, model_positions, rope);
  if (rope.rotary_dim.value_or(head_dim) % 2 != 0)
    json.fail("head_dim " + std::to_string(head_dim) + " is odd; rotary positions need pairs");
  return rope;
}

/// The positions that a model can take. Linear scaling brings positions closer together, so that
/// more of them fit into the range of those that the model was trained with, which is what
/// max_position_embeddings says. In files with the scaling of Llama 3.1 it says the longer range.
std::int64_t context_length(const RopeSettings& rope, std::int64_t model_positions) {
  const auto* const linear = std::get_if<LinearRopeScaling>(&rope.scaling);
  if (linear == nullptr) return model_positions;
  const double scaled = static_cast<double>(model_positions) * linear->factor;
  return static_cast<std::int64_t>(std::min(scaled, static_cast<double>(max_positions)));
}

// -------------------------------------------------------------------------------------------------
// sliding window

/// The window of a token that attends to itself and the tokens before it, `width` in all.
Window window_of_width(std::int64_t width) { return {.left = width - 1, .right = {}}; }

std::int64_t window_width(const JsonObject& json) {
  return json.integer_or("sliding_window", default_sliding_window, 1, max_size);
}

constexpr std::string_view types_key = "layer_types";
constexpr const char* alike = "the same attention in all layers";

/// Whether layer_types says that the layers have a window; nothing if it is missing. Models where
/// only some layers have one are not supported.
std::optional<bool> types_slide(const JsonObject& json, std::int64_t num_layers) {
  if (!json.has(types_key)) return std::nullopt;
  const auto& types = json.at(types_key);
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != num_layers)
    json.refuse(types_key, "a type for each layer");
  for (std::size_t n = 0; n < types.size(); ++n) {
    if (types[n] != "sliding_attention" && types[n] != "full_attention")
      json.unsupported_item(types_key, n, "full_attention or sliding_attention");
  }
  for (std::size_t n = 0; n < types.size(); ++n) {
    if (types[n] != types[0]) json.unsupported_item(types_key, n, alike);
  }
  return types[0] == "sliding_attention";
}

/// Whether max_window_layers says that the layers have a window.
bool max_window_layers_slide(const JsonObject& json, std::int64_t num_layers) {
  constexpr std::string_view key = "max_window_layers";
  constexpr std::int64_t default_first = 28;
  const std::int64_t first = json.integer_or(key, default_first, 0, max_size);
  if (first > 0 && first < num_layers)
    json.unsupported(json.has(key) ? key : "use_sliding_window", alike);
  return first == 0;
}

/// The window of all layers. layer_types may say it again, but nothing else.
std::optional<Window> read_window(const JsonObject& json, std::string_view model_type,
                                  std::int64_t num_layers) {
  constexpr std::string_view use_key = "use_sliding_window";
  const bool mistral = model_type == "mistral", qwen = model_type.starts_with("qwen");
  const std::optional<bool> stated = types_slide(json, num_layers);
  bool slides = (mistral || qwen) && !json.is_null("sliding_window");
  if (qwen) {
    slides = slides && json.flag_or(use_key, false) &&
             (stated ? *stated : max_window_layers_slide(json, num_layers));
  } else if (slides && !json.flag_or(use_key, true)) {
    json.unsupported(use_key, "true, or a sliding_window of null");
  }
  if (stated && *stated != slides) {
    json.unsupported_item(types_key, 0,
                          slides ? "sliding_attention, as sliding_window is there"
                                 : "full_attention, as the model has no sliding window");
  }
  return slides ? std::optional(window_of_width(window_width(json))) : std::nullopt;
}

// -------------------------------------------------------------------------------------------------
// families

void read_heads(const JsonObject& json, const LlamaVariant& variant, AttentionSettings& attention) {
  attention.hidden = size(json, "hidden_size");
  attention.num_q_heads = size(json, "num_attention_heads");
  attention.num_kv_heads = attention.num_q_heads;
  if (!json.is_null("num_key_value_heads")) {
    attention.num_kv_heads = json.integer_or(
        "num_key_value_heads", variant.num_kv_heads.value_or(attention.num_q_heads), 1, max_size);
  }
  if (attention.num_q_heads % attention.num_kv_heads != 0) {
    json.refuse("num_attention_heads",
                "a multiple of num_key_value_heads " + std::to_string(attention.num_kv_heads));
  }
  const bool own_dim = json.has("head_dim") || (variant.head_dim && !json.is_null("head_dim"));
  if (!own_dim && attention.hidden % attention.num_q_heads != 0) {
    json.refuse("hidden_size",
                "a multiple of num_attention_heads " + std::to_string(attention.num_q_heads));
  }
  attention.head_dim = own_dim
                           ? json.integer_or("head_dim", variant.head_dim.value_or(0), 1, max_size)
                           : attention.hidden / attention.num_q_heads;
}

void read_biases(const JsonObject& json, ModelConfig& config) {
  const bool stated = config.model_type == "llama" || config.model_type == "qwen3";
  const bool attention = stated && json.flag_or("attention_bias", false);
  config.qkv_bias = attention || config.model_type == "qwen2";
  config.out_bias = attention;
  config.mlp_bias = config.model_type == "llama" && json.flag_or("mlp_bias", false);
  config.qk_norm = config.model_type == "qwen3";
}

void read_llama(const JsonObject& json, const LlamaVariant& variant, ModelConfig& config) {
  config.family = Family::llama;
  DecoderSettings& decoder = config.settings;
  const std::int64_t num_layers = json.integer("num_hidden_layers", 1, max_layers);
  decoder.vocab_size = size(json, "vocab_size");
  LayerSettings layer;
  read_heads(json, variant, layer.attention);
  layer.mlp_width = size(json, "intermediate_size");
  layer.norm = {NormKind::rms, epsilon_or(json, "rms_norm_eps", 1e-6)};
  layer.attention.qk_norm_epsilon = layer.norm.epsilon;
  const std::int64_t model_positions =
      json.integer_or("max_position_embeddings", variant.max_positions, 1, max_positions);
  layer.attention.rope = read_rope(json, layer.attention.head_dim, model_positions);
  layer.attention.max_positions = context_length(*layer.attention.rope, model_positions);
  layer.attention.options.window = read_window(json, variant.model_type, num_layers);
  layer.mlp = MlpKind::swiglu;
  if (json.has("hidden_act") && json.text("hidden_act") != "silu" &&
      json.text("hidden_act") != "swish") {
    json.unsupported("hidden_act", "silu");
  }
  decoder.layers.assign(static_cast<std::size_t>(num_layers), layer);
  read_biases(json, config);
  config.tied = json.flag_or("tie_word_embeddings", false);
  config.bos_id = token_id(json, "bos_token_id", variant.bos_id);
  config.eos_ids = token_ids(json, "eos_token_id", variant.eos_id);
}

MlpKind gpt2_mlp(const JsonObject& json) {
  constexpr std::string_view key = "activation_function";
  if (!json.has(key)) return MlpKind::gelu_tanh;
  const std::string& name = json.text(key);
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return MlpKind::gelu_tanh;
  if (name != "gelu") json.unsupported(key, "gelu, gelu_new, gelu_fast or gelu_pytorch_tanh");
  return MlpKind::gelu;
}

/// The key that holds a size of GPT-2: its own name of it, or the one that other families have.
std::string_view either(const JsonObject& json, std::string_view own, std::string_view other) {
  if (!json.has(own) && json.has(other)) return other;
  if (json.has(other) && json.at(other) != json.at(own))
    json.refuse(other, "the value of " + std::string(own));
  return own;
}

void read_gpt2_heads(const JsonObject& json, AttentionSettings& attention) {
  constexpr std::int64_t default_positions = 1024;
  const std::string_view hidden = either(json, "n_embd", "hidden_size");
  const std::string_view heads = either(json, "n_head", "num_attention_heads");
  attention.hidden = size(json, hidden);
  attention.num_q_heads = attention.num_kv_heads = size(json, heads);
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
  config.family = Family::gpt2;
  DecoderSettings& decoder = config.settings;
  const std::int64_t num_layers =
      json.integer(either(json, "n_layer", "num_hidden_layers"), 1, max_layers);
  decoder.vocab_size = size(json, "vocab_size");
  LayerSettings layer;
  read_gpt2_heads(json, layer.attention);
  layer.attention.options.window = read_window(json, config.model_type, num_layers);
  layer.norm = {NormKind::layer, epsilon_or(json, "layer_norm_epsilon", 1e-5)};
  layer.mlp = gpt2_mlp(json);
  layer.mlp_width = json.has("n_inner") ? size(json, "n_inner") : 4 * layer.attention.hidden;
  decoder.layers.assign(static_cast<std::size_t>(num_layers), layer);
  config.tied = json.flag_or("tie_word_embeddings", true);
  config.bos_id = token_id(json, "bos_token_id", end_of_text);
  config.eos_ids = token_ids(json, "eos_token_id", end_of_text);
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& file) {
  const JsonObject json(file);
  ModelConfig config;
  config.model_type = json.text("model_type");
  refuse_quantized(json);
  if (config.model_type == "gpt2") {
    refuse_other_computations(json, config.model_type);
    read_gpt2(json, config);
    return config;
  }
  for (const LlamaVariant& variant : llama_variants) {
    if (variant.model_type != config.model_type) continue;
    refuse_other_computations(json, config.model_type);
    read_llama(json, variant, config);
    return config;
  }
  json.unsupported("model_type", "llama, mistral, qwen2, qwen3 or gpt2");
}

void read_generation_config(const std::filesystem::path& file, ModelConfig& config) {
  const JsonObject json(file);
  if (json.has("bos_token_id")) config.bos_id = token_id(json, "bos_token_id", {});
  if (json.has("eos_token_id")) config.eos_ids = token_ids(json, "eos_token_id", {});
}

}  // namespace attn::model
