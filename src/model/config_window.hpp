// Sliding windows of config.json.
#pragma once

#include <cstddef>
#include <functional>

#include "io/json.hpp"
#include "model/config.hpp"

namespace attn::model {

/// How a family says which of its layers have a window.
struct WindowRules {
  /// Whether layer n has a window where the file has no layer_types. Empty: no layer ever has one.
  std::function<bool(std::size_t layer)> slides{};
  /// Why layers have a window, and why they have none, for messages about layer_types.
  const char* why = "as sliding_window is there";
  const char* why_not = "as the model has no sliding window";
  /// Whether layer_types decides, layer by layer. Otherwise it may only say what `slides` says.
  bool by_types = false;
};

/// Gives each layer its window: sliding_window tokens, its own included, or, where attention is not
/// causal, so many on either side of it. Families without windows do not read sliding_window.
void read_windows(const io::JsonObject& json, const WindowRules& rules, ModelConfig& config);

}  // namespace attn::model
