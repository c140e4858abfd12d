// OLMo 2: norms behind attention and MLP, and norms of all heads of q and k together.
#include "model/config_reader.hpp"
#include "model/config_rope.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

void read_olmo2(const JsonObject& json, ModelConfig& config) {
  read_llama_sizes(json, {.epsilon = 1e-5, .eos_id = 50279}, config);
  read_rope(json, {}, config);
  read_windows(json, {}, config);
  for (LayerSettings& layer : config.settings.layers) layer.norm_placement = NormPlacement::after;
  require_silu(json);
  read_attention_bias(json, config);
  config.qk_norm = QkNorm::all_heads;
}

constexpr std::string_view keys_read[] = {"qk_norm", "use_qk_norm", "qk_layernorm"};

}  // namespace

constexpr FamilyReader olmo2_family{"olmo2", read_olmo2, keys_read};

}  // namespace attn::model
