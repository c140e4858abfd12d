// What the families' readers of config.json have in common.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "io/json.hpp"
#include "model/config.hpp"

namespace attn::model {

/// With this limit the product of two sizes is far from overflow.
inline constexpr std::int64_t max_size = std::int64_t{0x7fffffff};
/// The size of a file does not bound these two, which decide how much memory is allocated.
inline constexpr std::int64_t max_layers = 10'000;
inline constexpr std::int64_t max_positions = 1 << 24;

/// A size, which has to be there.
std::int64_t size_of(const io::JsonObject& json, std::string_view key);
/// A number whose null is no missing key: the models of such a file run nowhere.
double number_not_null_or(const io::JsonObject& json, std::string_view key, double missing,
                          double low, double high);
float epsilon_or(const io::JsonObject& json, std::string_view key, double missing);
/// A number greater than 0; nothing if it is null or missing.
std::optional<float> positive_number(const io::JsonObject& json, std::string_view key);
/// Null means that the model has no such token, even if the key has a default.
std::optional<std::int64_t> token_id(const io::JsonObject& json, std::string_view key,
                                     std::optional<std::int64_t> missing);
std::vector<std::int64_t> token_ids(const io::JsonObject& json, std::string_view key,
                                    std::optional<std::int64_t> missing);
/// The kind of a gated MLP whose activation the key names.
MlpKind gated_mlp(const io::JsonObject& json, std::string_view key, MlpKind missing);
/// The kind of an MLP without a gate.
MlpKind plain_mlp(const io::JsonObject& json, std::string_view key, MlpKind missing);

/// What the files of a family related to Llama may leave out.
struct LlamaDefaults {
  std::optional<std::int64_t> num_kv_heads{};  // default: as many as query heads
  std::optional<std::int64_t> head_dim{};      // default: hidden / heads
  std::int64_t max_positions = 2048;
  double epsilon = 1e-6;
  std::optional<std::int64_t> bos_id{}, eos_id{};
  bool tied = false;
};
/// Reads sizes, norms' epsilon, tied embeddings and token ids of such a family, and gives all
/// layers the same settings, with SwiGLU. Positions, windows and biases are left to the family.
void read_llama_sizes(const io::JsonObject& json, const LlamaDefaults& defaults,
                      ModelConfig& config);
/// Throws unless position_embedding_type is absolute or missing.
void require_learned_positions(const io::JsonObject& json);
/// Throws unless hidden_act is silu or missing.
void require_silu(const io::JsonObject& json);
/// attention_bias says whether q, k, v and out have biases.
void read_attention_bias(const io::JsonObject& json, ModelConfig& config);

}  // namespace attn::model
