#include "model/config_keys.hpp"

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

namespace attn::model {
namespace {

using nlohmann::json;

/// A key, and in JSON the value with which it changes nothing. A list changes nothing if all its
/// values are that one. "null" stands for keys that have no such value.
struct NeutralKey {
  std::string_view key;
  std::string_view value;
};

// The tables hold what Transformers' classes of these families read and the library does not
// compute, and keys of related families that no tensor would give away. A file with biases, norms
// or experts that the model does not have is refused for their tensors.
//
// Keys that change no result are in no table: those of training (dropout, initializer_range), of
// memory and rounding (use_cache, dtype, pretraining_tp, reorder_and_upcast_attn), of other outputs
// (summary_*, num_labels, output_*), and those that a family's own classes do not read
// (sliding_window of Llama, attention_bias of Mistral and Qwen2).

constexpr std::array<NeutralKey, 23> of_all_families{{
    {"per_layer_config", "{}"},
    {"pruned_heads", "{}"},
    {"is_encoder_decoder", "false"},
    {"add_cross_attention", "false"},
    {"is_causal", "true"},
    {"use_bidirectional_attention", "false"},
    {"attention_chunk_size", "null"},
    {"sliding_window_pattern", "null"},
    {"alibi", "false"},
    {"query_pre_attn_scalar", "null"},
    {"attention_multiplier", "null"},
    {"attn_temperature_tuning", "false"},
    {"attn_logit_softcapping", "null"},
    {"final_logit_softcapping", "null"},
    {"logits_soft_cap", "null"},
    {"clip_qkv", "null"},
    {"scale_embedding", "false"},
    {"embedding_multiplier", "1"},
    {"residual_multiplier", "1"},
    {"logits_scaling", "1"},
    {"logit_scale", "1"},
    {"use_parallel_residual", "false"},
    {"parallel_attn", "false"},
}};

constexpr std::array<NeutralKey, 5> of_llama{{
    {"hidden_activation", R"("silu")"},
    {"position_embedding_type", R"("rope")"},
    {"rotary_pct", "1"},
    {"no_rope_layers", "1"},
    {"no_rope_layer_interval", "0"},
}};

/// The variants of Llama without norms of q and k. Qwen3 has them always.
constexpr std::array<NeutralKey, 3> of_llama_without_qk_norm{{
    {"qk_norm", "false"},
    {"use_qk_norm", "false"},
    {"qk_layernorm", "false"},
}};

constexpr std::array<NeutralKey, 2> of_gpt2{{
    {"scale_attn_by_inverse_layer_idx", "false"},
    {"position_embedding_type", R"("absolute")"},
}};

void refuse_unless_neutral(const io::JsonObject& object, const NeutralKey& entry) {
  if (!object.has(entry.key)) return;
  const json& value = object.at(entry.key);
  const json neutral = json::parse(entry.value);
  if (value == neutral) return;
  const std::string needed(entry.value);
  if (!value.is_array()) object.unsupported(entry.key, needed);
  for (std::size_t n = 0; n < value.size(); ++n) {
    if (value[n] != neutral) object.unsupported_item(entry.key, n, needed);
  }
}

}  // namespace

void refuse_other_computations(const io::JsonObject& json, std::string_view model_type) {
  const auto check = [&](std::span<const NeutralKey> keys) {
    for (const NeutralKey& entry : keys) refuse_unless_neutral(json, entry);
  };
  check(of_all_families);
  if (model_type == "gpt2") return check(of_gpt2);
  check(of_llama);
  if (model_type != "qwen3") check(of_llama_without_qk_norm);
}

}  // namespace attn::model
