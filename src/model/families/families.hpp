// The families of models, each a short file that says what README.md's table says of it.
#pragma once

#include <span>
#include <string_view>

#include "io/json.hpp"
#include "model/config.hpp"

namespace attn::model {

struct FamilyReader {
  std::string_view model_type;
  /// Reads config.json into the configuration, whose model_type is set.
  void (*read)(const io::JsonObject& json, ModelConfig& config);
  /// Those of config_keys.hpp's keys that the family reads; the others are refused.
  std::span<const std::string_view> keys_read;
};

extern const FamilyReader llama_family, mistral_family, qwen2_family, qwen3_family;
extern const FamilyReader smollm3_family, olmo2_family, phi3_family;
extern const FamilyReader gemma2_family, gemma3_text_family;
extern const FamilyReader gpt2_family;
extern const FamilyReader bert_family;

}  // namespace attn::model
