// Gemma 2 and 3: norms before and behind, whose files hold scale - 1; GeGLU; a scale of queries and
// of embeddings; windows in most layers. Gemma 2 caps scores and logits, Gemma 3 normalizes q and k
// and has other positions in layers with a window.
#include <cmath>

#include "model/config_reader.hpp"
#include "model/config_rope.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

void read_gemma(const JsonObject& json, std::int64_t positions, ModelConfig& config) {
  constexpr double default_scalar = 256, max_scalar = 1e9;
  read_llama_sizes(json,
                   {.num_kv_heads = 4,
                    .head_dim = 256,
                    .max_positions = positions,
                    .bos_id = 2,
                    .eos_id = 1,
                    .tied = true},
                   config);
  const double scalar =
      number_not_null_or(json, "query_pre_attn_scalar", default_scalar, 1e-9, max_scalar);
  const MlpKind kind = gated_mlp(json, "hidden_activation", MlpKind::geglu_tanh);
  for (LayerSettings& layer : config.settings.layers) {
    layer.norm.scale_offset = layer.attention.qk_norm.scale_offset = 1;
    layer.norm_placement = NormPlacement::both;
    layer.mlp = kind;
    layer.attention.options.softmax_scale = static_cast<float>(1 / std::sqrt(scalar));
  }
  const auto hidden = static_cast<double>(config.settings.layers.front().attention.hidden);
  config.settings.embedding_scale = static_cast<float>(std::sqrt(hidden));
  read_attention_bias(json, config);
}

/// Whether the key is there, null being a value: it takes a cap away.
std::optional<float> cap_or(const JsonObject& json, std::string_view key,
                            std::optional<float> missing) {
  if (json.has(key)) return positive_number(json, key);
  return json.is_null(key) ? std::nullopt : missing;
}

/// Every layer has a window but each `period`-th.
WindowRules all_but_each(std::size_t period) {
  return {.slides = [period](std::size_t layer) { return (layer + 1) % period != 0; },
          .by_types = true};
}

void read_gemma2(const JsonObject& json, ModelConfig& config) {
  read_gemma(json, 8192, config);
  read_rope(json, {}, config);
  read_windows(json, all_but_each(2), config);
  const std::optional<float> cap = cap_or(json, "attn_logit_softcapping", 50.f);
  for (LayerSettings& layer : config.settings.layers) layer.attention.options.softcap = cap;
  config.settings.logit_softcap = cap_or(json, "final_logit_softcapping", 30.f);
}

void read_gemma3_text(const JsonObject& json, ModelConfig& config) {
  constexpr std::int64_t default_period = 6;
  read_gemma(json, 131072, config);
  const std::int64_t period =
      json.integer_or("sliding_window_pattern", default_period, 1, max_size);
  read_windows(json, all_but_each(static_cast<std::size_t>(period)), config);
  read_rope_by_type(json, 1e6, 1e4, config);
  config.settings.logit_softcap = cap_or(json, "final_logit_softcapping", {});
  config.qk_norm = QkNorm::each_head;
}

constexpr std::string_view gemma2_keys[] = {"query_pre_attn_scalar", "hidden_activation",
                                            "attn_logit_softcapping", "final_logit_softcapping"};
constexpr std::string_view gemma3_keys[] = {"query_pre_attn_scalar",
                                            "hidden_activation",
                                            "sliding_window_pattern",
                                            "final_logit_softcapping",
                                            "rope_local_base_freq",
                                            "qk_norm",
                                            "use_qk_norm",
                                            "qk_layernorm"};

}  // namespace

constexpr FamilyReader gemma2_family{"gemma2", read_gemma2, gemma2_keys};
constexpr FamilyReader gemma3_text_family{"gemma3_text", read_gemma3_text, gemma3_keys};

}  // namespace attn::model
