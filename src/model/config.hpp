// config.json: what Hugging Face's configuration says of a model, as the library's settings.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace attn::model {

/// How the tensors of a model are named, and which there are.
enum class Family { llama, gpt2 };

struct ModelConfig {
  std::string model_type;
  Family family = Family::llama;
  DecoderSettings settings{};
  // Of Llama's kin:
  bool qkv_bias = false;
  bool out_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  /// The embedding is the output's weight too.
  bool tied = false;
  std::optional<std::int64_t> bos_id{};
  std::vector<std::int64_t> eos_ids{};
};

/// model_type llama, mistral, qwen2, qwen3 or gpt2. Missing sizes are an error, and other missing
/// keys what they are by default in Hugging Face's configuration of that type; keys that change no
/// result are not looked at. Throws Error, which names the file and the key: io for what is broken,
/// unsupported for what the library does not compute.
ModelConfig read_config(const std::filesystem::path& file);
/// The ids that generation_config.json names take the place of config.json's.
void read_generation_config(const std::filesystem::path& file, ModelConfig& config);

}  // namespace attn::model
