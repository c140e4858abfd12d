// config.json of Hugging Face, read into the settings of this library. README.md says what each
// family sets.
#pragma once

#include <attn/transformer.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace attn::model {

/// Models of one family have the same tensors under the same names.
enum class Family { llama, gpt2, bert };

/// What the norms of q and k are of.
enum class QkNorm { each_head, all_heads };

struct ModelConfig {
  std::string model_type;
  Family family = Family::llama;
  DecoderSettings settings{};
  // These vary inside the family of Llama.
  bool qkv_bias = false;
  bool out_bias = false;
  bool mlp_bias = false;
  bool fused = false;  // q, k and v are one tensor, and gate and up are one
  std::optional<QkNorm> qk_norm{};
  // Of encoders.
  std::int64_t num_token_types = 0;
  std::optional<NormSettings> embedding_norm{};
  /// The embedding is also the weight of the output projection.
  bool tied = false;
  std::optional<std::int64_t> bos_id{};
  std::vector<std::int64_t> eos_ids{};
};

/// Reads models of the families in families/. A missing size is an error; any other key that is
/// missing or null has the default value of Hugging Face's configuration class for that type. Keys
/// that change no result are not read; config_keys.hpp refuses those that would. Throws Error,
/// which names the file and the key: io for what is broken, unsupported for what the library does
/// not compute.
ModelConfig read_config(const std::filesystem::path& file);
/// Throws Error(unsupported): the model of this file generates text, where an encoder is needed, or
/// the other way round.
[[noreturn]] void refuse_decoder(const std::filesystem::path& file);
[[noreturn]] void refuse_encoder(const std::filesystem::path& file);
/// Token ids of generation_config.json replace those of config.json.
void read_generation_config(const std::filesystem::path& file, ModelConfig& config);

}  // namespace attn::model
