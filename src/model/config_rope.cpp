#include "model/config_rope.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/config_keys.hpp"
#include "model/config_reader.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

constexpr double smallest = 1e-30;
constexpr double max_theta = 1e15;
constexpr double max_factor = 1e6;
constexpr std::string_view theta_key = "rope_theta", partial_key = "partial_rotary_factor",
                           original_key = "original_max_position_embeddings";

/// The keys that describe rotary positions, and what they depend on.
struct RopeKeys {
  const JsonObject& json;
  std::optional<JsonObject> parameters;  // rope_scaling or rope_parameters, or a part of it
  const RopeRules& rules;
  std::int64_t head_dim;
  std::int64_t model_positions;
  bool by_type = false;  // they are those of some layers; what is at the top level is not theirs

  /// A value among the parameters takes precedence over one at the top level.
  const JsonObject& holder_of(std::string_view key) const {
    return parameters && (by_type || parameters->has(key)) ? *parameters : json;
  }
  double theta() const {
    if (parameters && parameters->is_null(theta_key)) parameters->refuse(theta_key, "a number");
    if (by_type && !(parameters && parameters->has(theta_key))) return rules.theta;
    return number_not_null_or(holder_of(theta_key), theta_key, rules.theta, smallest, max_theta);
  }
};

/// The key that holds parameters of positions: older files have rope_scaling beside rope_theta and
/// partial_rotary_factor, newer ones have all of them inside of rope_parameters.
std::string_view parameters_key(const JsonObject& json) {
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (json.has(key) && !json.object(key).keys().empty()) return key;
  }
  return {};
}

std::optional<JsonObject> find_parameters(const JsonObject& json) {
  const std::string_view key = parameters_key(json);
  if (key.empty()) return std::nullopt;
  JsonObject parameters = json.object(key);
  for (const std::string_view name : parameters.keys()) {
    if (parameters.at(name).is_object() || name.ends_with("_attention"))
      parameters.unsupported(name, "the same positions in all layers");
  }
  return parameters;
}

std::int64_t original_positions(const RopeKeys& keys) {
  const bool own_default = keys.rules.long_rope_original > 0;
  const std::int64_t missing = own_default ? keys.rules.long_rope_original : keys.model_positions;
  const std::int64_t outside = keys.json.integer_or(original_key, missing, 1, max_positions);
  const std::int64_t inside = keys.parameters->integer_or(original_key, outside, 1, max_positions);
  if (keys.json.has(original_key) && inside != outside)
    keys.json.refuse(original_key, "the " + std::to_string(inside) + " of the rope parameters");
  // Transformers' class gives the missing key its default, which then counts.
  if (own_default && inside != outside) {
    keys.parameters->refuse(
        original_key, std::to_string(outside) + " where the same key at the top level is missing");
  }
  return inside;
}

Llama3RopeScaling llama3_scaling(const RopeKeys& keys) {
  const JsonObject& json = *keys.parameters;
  Llama3RopeScaling scaling;
  scaling.factor = json.number("factor", 1, max_factor);
  scaling.low_freq_factor = json.number("low_freq_factor", smallest, max_factor);
  scaling.high_freq_factor = json.number("high_freq_factor", smallest, max_factor);
  scaling.original_max_positions = original_positions(keys);
  if (!(scaling.low_freq_factor < scaling.high_freq_factor))
    json.refuse("low_freq_factor", "to be smaller than high_freq_factor");
  return scaling;
}

/// 0 and null count as missing, as in Transformers.
double number_or_missing(const JsonObject& json, std::string_view key, double missing) {
  const double value = json.number_or(key, missing, 0, max_factor);
  return value == 0 ? missing : value;
}

/// The factor of YaRN's cosines and sines, if keys say that it is not the usual one.
std::optional<double> yarn_attention_factor(const JsonObject& json, double factor) {
  if (json.has("attention_factor")) return json.number("attention_factor", 0, max_factor);
  const double of_both = number_or_missing(json, "mscale", 0),
               of_all = number_or_missing(json, "mscale_all_dim", 0);
  if (of_both == 0 || of_all == 0 || factor <= 1) return std::nullopt;
  return (0.1 * of_both * std::log(factor) + 1) / (0.1 * of_all * std::log(factor) + 1);
}

YarnRopeScaling yarn_scaling(const RopeKeys& keys) {
  const JsonObject& json = *keys.parameters;
  YarnRopeScaling scaling;
  scaling.original_max_positions = original_positions(keys);
  scaling.factor = json.is_null("factor") ? static_cast<double>(keys.model_positions) /
                                                static_cast<double>(scaling.original_max_positions)
                                          : json.number("factor", 1, max_factor);
  scaling.beta_fast = number_or_missing(json, "beta_fast", scaling.beta_fast);
  scaling.beta_slow = number_or_missing(json, "beta_slow", scaling.beta_slow);
  if (!(scaling.beta_slow <= scaling.beta_fast))
    json.refuse("beta_fast", "to be beta_slow or more");
  scaling.truncate = json.flag_or("truncate", true);
  scaling.attention_factor = yarn_attention_factor(json, scaling.factor);
  return scaling;
}

std::vector<double> factors(const JsonObject& json, std::string_view key, std::size_t count) {
  const auto& list = json.at(key);
  const std::string needed =
      "a list of " + std::to_string(count) + " numbers greater than 0, one for each rotated pair";
  if (!list.is_array() || list.size() != count) json.refuse(key, needed);
  std::vector<double> values;
  for (const auto& value : list) {
    if (!value.is_number() || !(value.get<double>() >= smallest) ||
        !(value.get<double>() <= max_factor))
      json.refuse(key, needed);
    values.push_back(value.get<double>());
  }
  return values;
}

LongRopeScaling long_scaling(const RopeKeys& keys, std::int64_t rotary_dim) {
  const JsonObject& json = *keys.parameters;
  const auto pairs = static_cast<std::size_t>(rotary_dim / 2);
  LongRopeScaling scaling;
  scaling.short_factors = factors(json, "short_factor", pairs);
  scaling.long_factors = factors(json, "long_factor", pairs);
  scaling.original_max_positions = original_positions(keys);
  const auto original = static_cast<double>(scaling.original_max_positions);
  const double factor = json.number_or(
      "factor", static_cast<double>(keys.model_positions) / original, smallest, max_factor);
  scaling.attention_factor = json.number_or(
      "attention_factor", factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original)), 0,
      max_factor);
  return scaling;
}

void set_scaling(const RopeKeys& keys, RopeSettings& rope) {
  const JsonObject& json = *keys.parameters;
  refuse_other_rope_keys(json);
  const std::string_view type_key =
      json.has("type") && !json.has("rope_type") ? "type" : "rope_type";
  if (!json.has(type_key) && !json.has("factor")) return;
  const std::string& type = json.text(type_key);
  if (type == "default") return;
  const std::int64_t rotary_dim = rope.rotary_dim.value_or(keys.head_dim);
  if (keys.rules.long_rope_original > 0) {
    if (type != "longrope" && type != "su" && type != "yarn")
      json.unsupported(type_key, "default or longrope");
    rope.scaling = long_scaling(keys, rotary_dim);
  } else if (type == "linear") {
    rope.scaling = LinearRopeScaling{json.number("factor", 1, max_factor)};
  } else if (type == "llama3") {
    rope.scaling = llama3_scaling(keys);
  } else if (type == "dynamic") {
    rope.scaling = DynamicRopeScaling{json.number("factor", 1, max_factor), keys.model_positions};
  } else if (type == "yarn") {
    rope.scaling = yarn_scaling(keys);
  } else if (type == "longrope") {
    rope.scaling = long_scaling(keys, rotary_dim);
  } else {
    json.unsupported(type_key, "default, dynamic, linear, llama3, longrope or yarn");
  }
}

/// The number of elements that are rotated, which is even and at least 2.
std::int64_t rotary_dim(const JsonObject& json, std::int64_t head_dim) {
  const auto dim =
      static_cast<std::int64_t>(static_cast<double>(head_dim) * json.number(partial_key, 0, 1));
  if (dim < 2 || dim % 2 != 0)
    json.refuse(partial_key, "an even number of elements of head_dim " + std::to_string(head_dim));
  return dim;
}

/// A part of each head cannot be rotated by scaled positions of families that rotate all of it.
void refuse_partial(const JsonObject& json) {
  if (json.has(partial_key) && json.number(partial_key, 0, 1) != 1)
    json.unsupported(partial_key, "1 beside scaled positions of this family");
}

RopeSettings rope_of(const RopeKeys& keys) {
  RopeSettings rope;
  rope.theta = keys.theta();
  const JsonObject& holder = keys.holder_of(partial_key);
  if (holder.has(partial_key) && keys.rules.partial)
    rope.rotary_dim = rotary_dim(holder, keys.head_dim);
  if (keys.parameters) set_scaling(keys, rope);
  const bool scaled = !std::holds_alternative<std::monostate>(rope.scaling);
  if (scaled && !keys.rules.partial) {
    refuse_partial(*keys.parameters);
    refuse_partial(keys.json);
  }
  if (rope.rotary_dim.value_or(keys.head_dim) % 2 != 0) {
    keys.json.fail("head_dim " + std::to_string(keys.head_dim) +
                   " is odd; rotary positions need pairs");
  }
  return rope;
}

/// The positions that a model can take. Linear scaling and YaRN bring positions closer together, so
/// that more of them fit into the range of those that the model was trained with. Dynamic scaling
/// adapts to any length. In files with other scalings, max_position_embeddings says the longer
/// range.
std::int64_t context_length(const RopeSettings& rope, std::int64_t model_positions) {
  const auto times = [](std::int64_t positions, double factor) {
    return static_cast<std::int64_t>(
        std::min(static_cast<double>(positions) * factor, static_cast<double>(max_positions)));
  };
  if (const auto* const linear = std::get_if<LinearRopeScaling>(&rope.scaling))
    return times(model_positions, linear->factor);
  if (const auto* const yarn = std::get_if<YarnRopeScaling>(&rope.scaling))
    return std::max(model_positions, times(yarn->original_max_positions, yarn->factor));
  return std::holds_alternative<DynamicRopeScaling>(rope.scaling) ? max_positions : model_positions;
}

}  // namespace

void read_rope(const JsonObject& json, const RopeRules& rules, ModelConfig& config) {
  std::vector<LayerSettings>& layers = config.settings.layers;
  const AttentionSettings& first = layers.front().attention;
  const std::int64_t model_positions = first.max_positions;
  const RopeSettings rope =
      rope_of({json, find_parameters(json), rules, first.head_dim, model_positions});
  for (LayerSettings& layer : layers) {
    layer.attention.rope = rope;
    layer.attention.max_positions = context_length(rope, model_positions);
  }
}

void read_rope_by_type(const JsonObject& json, double theta_of_full, double theta_of_sliding,
                       ModelConfig& config) {
  const std::string_view key = parameters_key(json);
  const bool newer = key == "rope_parameters";
  if (!key.empty() && !newer && json.has("rope_parameters") &&
      !json.object("rope_parameters").keys().empty())
    json.unsupported("rope_parameters", "null beside rope_scaling");
  // Newer files have parameters for each type of layers. In older ones rope_scaling and rope_theta
  // are those of layers without a window, and rope_local_base_freq is the other ones' theta.
  const auto parameters_of = [&](std::string_view type) -> std::optional<JsonObject> {
    if (key.empty() || (!newer && type == "sliding_attention")) return std::nullopt;
    const JsonObject parameters = json.object(key);
    if (!newer) return parameters;
    for (const std::string_view name : parameters.keys()) {
      if (name != "full_attention" && name != "sliding_attention")
        parameters.unsupported(name, "full_attention and sliding_attention");
    }
    if (!parameters.has(type)) return std::nullopt;
    return parameters.object(type);
  };
  const AttentionSettings& first = config.settings.layers.front().attention;
  const std::int64_t head_dim = first.head_dim, model_positions = first.max_positions;
  const double full_theta = number_not_null_or(json, theta_key, theta_of_full, smallest, max_theta);
  const double sliding_theta =
      number_not_null_or(json, "rope_local_base_freq", theta_of_sliding, smallest, max_theta);
  const auto rope_for = [&](std::string_view type, double theta) {
    const RopeRules rules{.theta = theta};
    return rope_of({json, parameters_of(type), rules, head_dim, model_positions, true});
  };
  const RopeSettings full = rope_for("full_attention", full_theta),
                     sliding = rope_for("sliding_attention", sliding_theta);
  for (LayerSettings& layer : config.settings.layers)
    layer.attention.rope = layer.attention.options.window ? sliding : full;
}

}  // namespace attn::model
