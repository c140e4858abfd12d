// SmolLM3: Llama with layers that have no rotary positions, every fourth by default.
#include <string>
#include <vector>

#include "model/config_reader.hpp"
#include "model/config_rope.hpp"
#include "model/config_window.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

/// Whether each layer has rotary positions.
std::vector<bool> layers_with_rope(const JsonObject& json, std::size_t num_layers) {
  constexpr std::int64_t default_interval = 4;
  std::vector<bool> with_rope;
  if (json.has("no_rope_layers")) {
    // The key's name says the opposite of what its values do: 1 is a layer with positions.
    for (const std::int64_t value : json.integers("no_rope_layers", 0, 1))
      with_rope.push_back(value == 1);
    if (with_rope.size() != num_layers)
      json.refuse("no_rope_layers", "0 or 1 for each of " + std::to_string(num_layers) + " layers");
    return with_rope;
  }
  const auto interval = static_cast<std::size_t>(
      json.integer_or("no_rope_layer_interval", default_interval, 1, max_size));
  for (std::size_t n = 0; n < num_layers; ++n) with_rope.push_back((n + 1) % interval != 0);
  return with_rope;
}

void read_smollm3(const JsonObject& json, ModelConfig& config) {
  read_llama_sizes(
      json,
      {.num_kv_heads = 4, .max_positions = 32768, .bos_id = 128000, .eos_id = 128001, .tied = true},
      config);
  std::vector<LayerSettings>& layers = config.settings.layers;
  const std::vector<bool> with_rope = layers_with_rope(json, layers.size());
  read_rope(json, {.theta = 2e6}, config);
  WindowRules windows{.by_types = true};
  if (json.flag_or("use_sliding_window", false) && json.has("sliding_window"))
    windows.slides = [&](std::size_t layer) { return !with_rope[layer]; };
  read_windows(json, windows, config);
  for (std::size_t n = 0; n < layers.size(); ++n) {
    if (!with_rope[n]) layers[n].attention.rope.reset();
  }
  require_silu(json);
  read_attention_bias(json, config);
  config.mlp_bias = json.flag_or("mlp_bias", false);
}

constexpr std::string_view keys_read[] = {"no_rope_layers", "no_rope_layer_interval"};

}  // namespace

constexpr FamilyReader smollm3_family{"smollm3", read_smollm3, keys_read};

}  // namespace attn::model
