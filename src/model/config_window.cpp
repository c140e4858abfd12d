#include "model/config_window.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

constexpr std::int64_t default_sliding_window = 4096;
constexpr std::string_view types_key = "layer_types";

/// A token that sees itself and the tokens before it attends to `width` in all. Without a causal
/// mask it sees as many on either side, as Transformers has it.
Window window_of(std::int64_t width, bool causal) {
  if (!causal) return {.left = width, .right = width};
  return {.left = width - 1, .right = {}};
}

/// Which layers have a window by layer_types; nothing if the key is missing.
std::optional<std::vector<bool>> types_slide(const JsonObject& json, std::size_t num_layers) {
  if (!json.has(types_key)) return std::nullopt;
  const auto& types = json.at(types_key);
  if (!types.is_array() || types.size() != num_layers)
    json.refuse(types_key, "a type for each layer");
  std::vector<bool> slides;
  for (std::size_t n = 0; n < types.size(); ++n) {
    if (types[n] != "sliding_attention" && types[n] != "full_attention")
      json.unsupported_item(types_key, n, "full_attention or sliding_attention");
    slides.push_back(types[n] == "sliding_attention");
  }
  return slides;
}

}  // namespace

void read_windows(const JsonObject& json, const WindowRules& rules, ModelConfig& config) {
  std::vector<LayerSettings>& layers = config.settings.layers;
  const std::optional<std::vector<bool>> types = types_slide(json, layers.size());
  std::optional<std::int64_t> width;
  for (std::size_t n = 0; n < layers.size(); ++n) {
    const bool may = rules.slides != nullptr, by_rule = may && rules.slides(n);
    const bool slides = types ? (*types)[n] : by_rule;
    if (types && slides != by_rule && !(may && rules.by_types)) {
      json.unsupported_item(types_key, n,
                            slides ? std::string("full_attention, ") + rules.why_not
                                   : std::string("sliding_attention, ") + rules.why);
    }
    if (!slides) continue;
    if (!width) {
      width = json.is_null("sliding_window")
                  ? json.integer("sliding_window", 1, max_size)
                  : json.integer_or("sliding_window", default_sliding_window, 1, max_size);
    }
    AttentionSettings& attention = layers[n].attention;
    attention.options.window = window_of(*width, attention.options.causal.has_value());
  }
}

}  // namespace attn::model
