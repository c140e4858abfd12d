#include "model/config.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "io/json.hpp"
#include "model/config_keys.hpp"
#include "model/config_reader.hpp"
#include "model/families/families.hpp"

namespace attn::model {

using io::JsonObject;

namespace {

const std::array<const FamilyReader*, 11> families{
    &llama_family,       &mistral_family, &qwen2_family, &qwen3_family,
    &smollm3_family,     &olmo2_family,   &phi3_family,  &gemma2_family,
    &gemma3_text_family, &gpt2_family,    &bert_family};

/// "llama, mistral, ... or gpt2"
std::string names_of_families() {
  std::string names;
  for (const FamilyReader* const family : families) {
    if (!names.empty()) names += family == families.back() ? " or " : ", ";
    names += family->model_type;
  }
  return names;
}

/// The weights of a quantized model are codes, whatever their element type.
void refuse_quantized(const JsonObject& json) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (json.has(key)) json.unsupported(key, "f32, f16 or bf16 weights");
  }
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& file) {
  const JsonObject json(file);
  ModelConfig config;
  config.model_type = json.text("model_type");
  refuse_quantized(json);
  const auto* const found = std::ranges::find(
      families, config.model_type, [](const FamilyReader* family) { return family->model_type; });
  if (found == families.end()) json.unsupported("model_type", names_of_families());
  refuse_other_computations(json, (*found)->keys_read);
  (*found)->read(json, config);
  return config;
}

void refuse_decoder(const std::filesystem::path& file) {
  JsonObject(file).unsupported("model_type",
                               "an encoder: bert, or mistral with an is_causal of false");
}

void refuse_encoder(const std::filesystem::path& file) {
  JsonObject(file).unsupported("model_type", "a decoder; this is an encoder (attn_demo embed)");
}

void read_generation_config(const std::filesystem::path& file, ModelConfig& config) {
  const JsonObject json(file);
  if (json.has("bos_token_id")) config.bos_id = token_id(json, "bos_token_id", {});
  if (json.has("eos_token_id")) config.eos_ids = token_ids(json, "eos_token_id", {});
}

}  // namespace attn::model
