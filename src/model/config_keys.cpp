#include "model/config_keys.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

namespace attn::model {
namespace {

using nlohmann::json;

/// A key, and in JSON the value with which it changes nothing. A list changes nothing if all its
/// values are that one. "null" stands for keys that have no such value.
struct NeutralKey {
  std::string_view key;
  std::string_view value;
  bool null_counts = false;  // null is another value, and no missing key
};

// The table holds what Transformers' classes of these and of related families read. A family names
// the keys that it understands; the others have to be neutral. A file with biases, norms or experts
// that the model does not have is refused for their tensors.
//
// Keys that change no result are not in it: those of training (dropout, initializer_range), of
// memory and rounding (use_cache, dtype, pretraining_tp, reorder_and_upcast_attn), of other outputs
// (summary_*, num_labels, output_*), and those that a family's own classes do not read
// (sliding_window of Llama, attention_bias of Mistral and Qwen2).
constexpr auto computations = std::to_array<NeutralKey>({
    // layers and their order
    {"per_layer_config", "{}"},
    {"pruned_heads", "{}"},
    {"is_encoder_decoder", "false"},
    {"is_decoder", "false"},
    {"add_cross_attention", "false"},
    {"use_parallel_residual", "false"},
    {"parallel_attn", "false"},
    {"residual_multiplier", "1"},
    {"scale_depth", "1"},
    {"qk_norm", "false"},
    {"use_qk_norm", "false"},
    {"qk_layernorm", "false"},
    {"hidden_activation", R"("silu")"},
    // who sees whom
    {"is_causal", "true", true},  // Transformers takes null for false
    {"use_bidirectional_attention", "false"},
    {"attention_chunk_size", "null"},
    {"sliding_window_pattern", "null"},
    // positions
    {"position_embedding_type", R"("rope")"},
    {"alibi", "false"},
    {"rotary_pct", "1"},
    {"rope_interleaved", "false"},
    {"rope_interleave", "false"},
    {"rope_local_base_freq", "null"},
    {"no_rope_layers", "1"},
    {"no_rope_layer_interval", "0"},
    // scores
    {"query_pre_attn_scalar", "null"},
    {"attention_multiplier", "null"},
    {"attn_temperature_tuning", "false"},
    {"attn_logit_softcapping", "null"},
    {"scale_attn_by_inverse_layer_idx", "false"},
    // projections, embeddings and logits
    {"clip_qkv", "null"},
    {"scale_embedding", "false"},
    {"scale_emb", "1"},
    {"embedding_multiplier", "1"},
    {"final_logit_softcapping", "null"},
    {"logits_soft_cap", "null"},
    {"logits_scaling", "1"},
    {"logit_scale", "1"},
});

/// Of the parameters of rotary positions. Those that Transformers reads for each type are read here
/// too.
constexpr auto rope_computations = std::to_array<NeutralKey>({
    {"alpha", "null"},
    {"ntk_alpha", "null"},
    {"mrope_section", "null"},
    {"short_mscale", "null"},
    {"long_mscale", "null"},
});

void refuse_unless_neutral(const io::JsonObject& object, const NeutralKey& entry) {
  if (!object.has(entry.key) && !(entry.null_counts && object.is_null(entry.key))) return;
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

void refuse_other_computations(const io::JsonObject& json,
                               std::span<const std::string_view> keys_read) {
  for (const NeutralKey& entry : computations) {
    if (std::ranges::find(keys_read, entry.key) == keys_read.end())
      refuse_unless_neutral(json, entry);
  }
}

void refuse_other_rope_keys(const io::JsonObject& parameters) {
  for (const NeutralKey& entry : rope_computations) refuse_unless_neutral(parameters, entry);
}

}  // namespace attn::model
