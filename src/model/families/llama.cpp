// Llama and what differs from it by a few keys: Mistral, Qwen2, Qwen3.
#include "model/config_reader.hpp"
#include "model/config_rope.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

void read_llama(const JsonObject& json, ModelConfig& config) {
  read_llama_sizes(json, {.bos_id = 1, .eos_id = 2}, config);
  read_rope(json, {}, config);
  read_windows(json, {}, config);
  require_silu(json);
  read_attention_bias(json, config);
  config.mlp_bias = json.flag_or("mlp_bias", false);
}

void read_mistral(const JsonObject& json, ModelConfig& config) {
  read_llama_sizes(json, {.num_kv_heads = 8, .max_positions = 131072, .bos_id = 1, .eos_id = 2},
                   config);
  const bool causal =
      json.is_null("is_causal") ? json.flag("is_causal") : json.flag_or("is_causal", true);
  if (!causal) {
    for (LayerSettings& layer : config.settings.layers) layer.attention.options.causal.reset();
  }
  read_rope(json, {}, config);
  const bool slides = !json.is_null("sliding_window");
  if (slides && !json.flag_or("use_sliding_window", true))
    json.unsupported("use_sliding_window", "true, or a sliding_window of null");
  WindowRules windows{.by_types = true};
  if (slides) windows.slides = [](std::size_t) { return true; };
  read_windows(json, windows, config);
  require_silu(json);
}

void read_qwen(const JsonObject& json, const LlamaDefaults& defaults, ModelConfig& config) {
  constexpr std::int64_t default_first = 28;
  read_llama_sizes(json, defaults, config);
  read_rope(json, {}, config);
  WindowRules windows{.by_types = true};
  if (json.flag_or("use_sliding_window", false) && !json.is_null("sliding_window")) {
    const auto first =
        static_cast<std::size_t>(json.integer_or("max_window_layers", default_first, 0, max_size));
    windows.slides = [first](std::size_t layer) { return layer >= first; };
  }
  read_windows(json, windows, config);
  require_silu(json);
}

void read_qwen2(const JsonObject& json, ModelConfig& config) {
  read_qwen(json, {.num_kv_heads = 32, .max_positions = 32768}, config);
  config.qkv_bias = true;
}

void read_qwen3(const JsonObject& json, ModelConfig& config) {
  read_qwen(json, {.num_kv_heads = 32, .head_dim = 128, .max_positions = 32768}, config);
  read_attention_bias(json, config);
  config.qk_norm = QkNorm::each_head;
}

constexpr std::string_view mistral_keys[] = {"is_causal"};
constexpr std::string_view qwen3_keys[] = {"qk_norm", "use_qk_norm", "qk_layernorm"};

}  // namespace

constexpr FamilyReader llama_family{"llama", read_llama, {}};
constexpr FamilyReader mistral_family{"mistral", read_mistral, mistral_keys};
constexpr FamilyReader qwen2_family{"qwen2", read_qwen2, {}};
constexpr FamilyReader qwen3_family{"qwen3", read_qwen3, qwen3_keys};

}  // namespace attn::model
