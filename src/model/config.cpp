#include "model/config.hpp"

#include <array>
#include <limits>
#include <string_view>

#include "io/json.hpp"

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

float epsilon_or(const JsonObject& json, std::string_view key, double missing) {
  return static_cast<float>(json.number_or(key, missing, 0, 1));
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
  if (json.has("quantization_config"))
    json.unsupported("quantization_config", "f32, f16 or bf16 weights");
}

// -------------------------------------------------------------------------------------------------
// rope

LinearRopeScaling linear_scaling(const JsonObject& json) {
  return {json.number("factor", 1, max_factor)};
}

Llama3RopeScaling llama3_scaling(const JsonObject& json, std::int64_t model_positions) {
  Llama3RopeScaling scaling;
  scaling.factor = json.number("factor", 1, max_factor);
  scaling.low_freq_factor = json.number("low_freq_factor", smallest, max_factor);
  scaling.high_freq_factor = json.number("high_freq_factor", smallest, max_factor);
  scaling.original_max_positions =
      json.integer_or("original_max_position_embeddings", model_positions, 1, max_positions);
  if (!(scaling.low_freq_factor < scaling.high_freq_factor))
    json.refuse("low_freq_factor", "to be smaller than high_freq_factor");
  return scaling;
}

void set_scaling(const JsonObject& json, std::int64_t model_positions, RopeSettings& rope) {
  const std::string_view type_key =
      json.has("type") && !json.has("rope_type") ? "type" : "rope_type";
  if (!json.has(type_key) && !json.has("factor")) return;
  const std::string& type = json.text(type_key);
  if (type == "linear")
    rope.scaling = linear_scaling(json);
  else if (type == "llama3")
    rope.scaling = llama3_scaling(json, model_positions);
  // "dynamic" changes only positions beyond max_positions, which are refused anyway.
  else if (type != "default" && type != "dynamic")
    json.unsupported(type_key, "default, dynamic, linear or llama3");
}

double theta_or(const JsonObject& json, double missing) {
  return json.number_or("rope_theta", missing, smallest, max_theta);
}

/// The number of elements that are rotated, which is even and at least 2.
std::int64_t rotary_dim(const JsonObject& json, std::int64_t head_dim) {
  constexpr std::string_view key = "partial_rotary_factor";
  const auto dim =
      static_cast<std::int64_t>(static_cast<double>(head_dim) * json.number(key, 0, 1));
  if (dim < 2 || dim % 2 != 0)
    json.refuse(key, "an even number of elements of head_dim " + std::to_string(head_dim));
  return dim;
}

/// Older files have rope_theta, rope_scaling and partial_rotary_factor at the top level, newer ones
/// have them inside of rope_parameters. A value inside takes precedence.
RopeSettings read_rope(const JsonObject& json, std::int64_t head_dim,
                       std::int64_t model_positions) {
  RopeSettings rope;
  rope.theta = theta_or(json, rope.theta);
  if (json.has("partial_rotary_factor")) rope.rotary_dim = rotary_dim(json, head_dim);
  const std::string_view parameters_key =
      json.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (json.has(parameters_key)) {
    const JsonObject parameters = json.object(parameters_key);
    for (const std::string_view key : parameters.keys()) {
      if (parameters.at(key).is_object())
        parameters.unsupported(key, "the same positions in all layers");
    }
    rope.theta = theta_or(parameters, rope.theta);
    if (parameters.has("partial_rotary_factor")) rope.rotary_dim = rotary_dim(parameters, head_dim);
    set_scaling(parameters, model_positions, rope);
  }
  if (rope.rotary_dim.value_or(head_dim) % 2 != 0)
    json.fail("head_dim " + std::to_string(head_dim) + " is odd; rotary positions need pairs");
  return rope;
}

// -------------------------------------------------------------------------------------------------
// sliding window

/// The window of a token that attends to itself and the tokens before it, `width` in all.
Window window_of_width(std::int64_t width) { return {.left = width - 1, .right = {}}; }

std::int64_t window_width(const JsonObject& json) {
  return json.integer_or("sliding_window", default_sliding_window, 1, max_size);
}

/// Whether the layers have a window. Models where only some layers have one are not supported.
bool all_layers_slide(const JsonObject& json, std::int64_t num_layers) {
  constexpr std::string_view types_key = "layer_types", first_key = "max_window_layers";
  constexpr std::int64_t default_first = 28;
  constexpr const char* supported = "the same attention in all layers";
  std::int64_t sliding = 0;
  if (json.has(types_key)) {
    if (!json.at(types_key).is_array() ||
        static_cast<std::int64_t>(json.at(types_key).size()) != num_layers) {
      json.refuse(types_key, "a type for each layer");
    }
    for (const auto& type : json.at(types_key)) {
      if (type != "sliding_attention" && type != "full_attention")
        json.unsupported(types_key, "full_attention or sliding_attention");
      sliding += type == "sliding_attention";
    }
    if (sliding % num_layers != 0) json.unsupported(types_key, supported);
    return sliding != 0;
  }
  const std::int64_t first = json.integer_or(first_key, default_first, 0, max_size);
  if (first > 0 && first < num_layers) {
    json.unsupported(json.has(first_key) ? first_key : "use_sliding_window", supported);
  }
  return first == 0;
}

std::optional<Window> read_window(const JsonObject& json, std::string_view model_type,
                                  std::int64_t num_layers) {
  constexpr std::string_view key = "sliding_window";
  if (model_type == "llama" || json.is_null(key)) return std::nullopt;
  if (model_type == "mistral") return window_of_width(window_width(json));
  if (!json.flag_or("use_sliding_window", false) || !all_layers_slide(json, num_layers))
    return std::nullopt;
  return window_of_width(window_width(json));
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
  layer.attention.max_positions =
      json.integer_or("max_position_embeddings", variant.max_positions, 1, max_positions);
  layer.attention.rope = read_rope(json, layer.attention.head_dim, layer.attention.max_positions);
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

void read_gpt2(const JsonObject& json, ModelConfig& config) {
  constexpr std::int64_t default_positions = 1024, end_of_text = 50256;
  config.family = Family::gpt2;
  // reorder_and_upcast_attn is ignored, because it changes only the order of rounding.
  for (const char* key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
    if (json.flag_or(key, false)) json.unsupported(key, "false");
  }
  DecoderSettings& decoder = config.settings;
  const std::int64_t num_layers = json.integer("n_layer", 1, max_layers);
  decoder.vocab_size = size(json, "vocab_size");
  LayerSettings layer;
  AttentionSettings& attention = layer.attention;
  attention.hidden = size(json, "n_embd");
  attention.num_q_heads = attention.num_kv_heads = size(json, "n_head");
  if (attention.hidden % attention.num_q_heads != 0) {
    json.refuse("n_embd", "a multiple of n_head " + std::to_string(attention.num_q_heads));
  }
  attention.head_dim = attention.hidden / attention.num_q_heads;
  attention.max_positions = json.integer_or(json.has("n_positions") ? "n_positions" : "n_ctx",
                                            default_positions, 1, max_positions);
  if (!json.flag_or("scale_attn_weights", true)) attention.options.softmax_scale = 1.0f;
  layer.norm = {NormKind::layer, epsilon_or(json, "layer_norm_epsilon", 1e-5)};
  layer.mlp = gpt2_mlp(json);
  layer.mlp_width = json.has("n_inner") ? size(json, "n_inner") : 4 * attention.hidden;
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
    read_gpt2(json, config);
    return config;
  }
  for (const LlamaVariant& variant : llama_variants) {
    if (variant.model_type != config.model_type) continue;
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
