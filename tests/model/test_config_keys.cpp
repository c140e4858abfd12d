// config.json: keys that change what a model computes are used, or refused unless they change
// nothing; keys that change nothing are not read; null is a missing key.
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "model/config.hpp"
#include "support/model_config.hpp"

using namespace attn;
using namespace attn::test;
using model::ModelConfig;

namespace {

using Strings = std::vector<std::string>;

const Strings llama_like = {"llama", "mistral", "qwen2", "qwen3"},
              all_types = {"llama", "mistral", "qwen2", "qwen3", "gpt2"};

std::string keys_of(const std::string& type) {
  return type == "gpt2" ? gpt2_sizes : sizes_of(type);
}

ModelConfig of(const std::string& type, const std::string& more) {
  return parse(json(keys_of(type) + ", " + more));
}

const AttentionSettings& attention_of(const ModelConfig& config) {
  return config.settings.layers.front().attention;
}

/// Checks that two configurations describe the same computation.
void check_same(const ModelConfig& got, const ModelConfig& wanted) {
  const LayerSettings &a = got.settings.layers.front(), &b = wanted.settings.layers.front();
  CHECK(got.settings.layers.size() == wanted.settings.layers.size());
  CHECK(got.settings.vocab_size == wanted.settings.vocab_size);
  CHECK(a.mlp == b.mlp);
  CHECK(a.mlp_width == b.mlp_width);
  CHECK(a.norm.epsilon == b.norm.epsilon);
  CHECK(a.attention.hidden == b.attention.hidden);
  CHECK(a.attention.num_q_heads == b.attention.num_q_heads);
  CHECK(a.attention.num_kv_heads == b.attention.num_kv_heads);
  CHECK(a.attention.head_dim == b.attention.head_dim);
  CHECK(a.attention.rope == b.attention.rope);
  CHECK(a.attention.max_positions == b.attention.max_positions);
  CHECK(a.attention.options.causal.has_value());
  CHECK(a.attention.options.softmax_scale == b.attention.options.softmax_scale);
  CHECK(a.attention.options.window.has_value() == b.attention.options.window.has_value());
  if (a.attention.options.window) {
    CHECK(a.attention.options.window->left == b.attention.options.window->left);
  }
  CHECK(got.qkv_bias == wanted.qkv_bias);
  CHECK(got.out_bias == wanted.out_bias);
  CHECK(got.mlp_bias == wanted.mlp_bias);
  CHECK(got.qk_norm == wanted.qk_norm);
  CHECK(got.tied == wanted.tied);
  CHECK(got.bos_id == wanted.bos_id);
  CHECK(got.eos_ids == wanted.eos_ids);
}

void check_changes_nothing(const std::string& type, const std::string& more) {
  CAPTURE(type);
  CAPTURE(more);
  check_same(of(type, more), parse(json(keys_of(type))));
}

void check_not_supported(const std::string& type, const std::string& key, const std::string& value,
                         const std::string& fault) {
  CAPTURE(type);
  check_unsupported(changed(keys_of(type), key, value), "'" + key + "' is " + fault);
}

}  // namespace

TEST_CASE("keys that change no result are not read") {
  for (const std::string& type : all_types) {
    for (const char* more :
         {"'architectures': ['X'], 'torch_dtype': 'float16', 'dtype': 'bfloat16'",
          "'transformers_version': 5, 'use_cache': false, 'initializer_range': 9",
          "'attention_dropout': 0.5, 'pretraining_tp': 4, 'pad_token_id': 3",
          "'num_labels': 7, 'id2label': {'0': 'a'}, 'problem_type': 'regression'",
          "'output_hidden_states': true, 'return_dict': false, 'chunk_size_feed_forward': 5",
          "'temperature': 0.1, 'top_k': 1, 'max_length': 3, 'auto_map': {'a': 'b'}, 'x': [1, {}]"})
      check_changes_nothing(type, more);
  }
  check_changes_nothing("gpt2",
                        "'attn_pdrop': 0.5, 'embd_pdrop': 0.5, 'resid_pdrop': 0.5, "
                        "'reorder_and_upcast_attn': true, 'summary_type': 'mean', "
                        "'summary_use_proj': false, 'summary_activation': 'tanh', "
                        "'summary_proj_to_labels': false, 'summary_first_dropout': 1, "
                        "'rope_theta': 5, 'n_ctx': 1024, 'task_specific_params': {'a': 1}");
  check_changes_nothing("llama", "'sliding_window': 5, 'max_window_layers': 1");
  check_changes_nothing("mistral", "'attention_bias': true, 'max_window_layers': 1");
  check_changes_nothing("qwen2", "'attention_bias': false, 'sliding_window': 5");
}

TEST_CASE("keys that would change the computation are refused unless they change nothing") {
  const std::vector<std::pair<std::string, Strings>> neutral = {
      {"use_bidirectional_attention", {"false"}},
      {"is_encoder_decoder", {"false"}},
      {"add_cross_attention", {"false"}},
      {"alibi", {"false"}},
      {"scale_embedding", {"false"}},
      {"use_parallel_residual", {"false"}},
      {"parallel_attn", {"false"}},
      {"attn_temperature_tuning", {"false"}},
      {"attention_chunk_size", {}},
      {"sliding_window_pattern", {}},
      {"query_pre_attn_scalar", {}},
      {"attn_logit_softcapping", {}},
      {"final_logit_softcapping", {}},
      {"logits_soft_cap", {}},
      {"attention_multiplier", {}},
      {"clip_qkv", {}},
      {"embedding_multiplier", {"1", "1.0"}},
      {"residual_multiplier", {"1", "1.0"}},
      {"logits_scaling", {"1", "1.0"}},
      {"logit_scale", {"1", "1.0"}},
      {"pruned_heads", {"{}"}},
      {"per_layer_config", {"{}"}}};
  for (const std::string& type : all_types) {
    for (const auto& [key, values] : neutral) {
      check_changes_nothing(type, "'" + key + "': null");
      for (const std::string& value : values)
        check_changes_nothing(type, "'" + key + "': " + value);
      check_not_supported(type, key, "0.25", "0.25, which is not supported; it needs ");
      check_not_supported(type, key, "'x'", "the text 'x', which is not supported; it needs ");
    }
    if (type != "mistral") {
      check_changes_nothing(type, "'is_causal': true");
      check_not_supported(type, "is_causal", "false",
                          "false, which is not supported; it needs true");
    }
    check_not_supported(type, "pruned_heads", "{'0': [1]}",
                        "an object, which is not supported; it needs {}");
    check_not_supported(type, "compression_config", "{}", "an object, which is not supported");
  }
  for (const std::string& type : llama_like) {
    check_changes_nothing(type,
                          "'hidden_activation': 'silu', 'position_embedding_type': 'rope', "
                          "'rotary_pct': 1.0, 'no_rope_layers': [1, 1, 1], "
                          "'no_rope_layer_interval': 0");
    check_not_supported(type, "hidden_activation", "'gelu'",
                        "the text 'gelu', which is not supported; it needs \"silu\"");
    check_not_supported(type, "position_embedding_type", "'absolute'", "the text 'absolute'");
    check_not_supported(type, "rotary_pct", "0.25", "0.25, which is not supported; it needs 1");
    check_not_supported(type, "no_rope_layer_interval", "4", "4, which is not supported");
    check_unsupported(json(keys_of(type) + ", 'no_rope_layers': [1, 0, 1]"),
                      "'no_rope_layers[1]' is 0, which is not supported; it needs 1");
    if (type == "qwen3") continue;
    for (const char* key : {"qk_norm", "use_qk_norm", "qk_layernorm"})
      check_not_supported(type, key, "true", "true, which is not supported; it needs false");
  }
  check_not_supported("gpt2", "scale_attn_by_inverse_layer_idx", "true",
                      "true, which is not supported; it needs false");
  check_changes_nothing("gpt2", "'position_embedding_type': 'absolute'");
  check_not_supported("gpt2", "position_embedding_type", "'relative_key'",
                      "the text 'relative_key', which is not supported; it needs \"absolute\"");
}

TEST_CASE("layer_types agrees with the window of each family, or is refused") {
  const std::string full = "'layer_types': ['full_attention', 'full_attention', 'full_attention']",
                    sliding =
                        "'layer_types': ['sliding_attention', 'sliding_attention', "
                        "'sliding_attention']",
                    mixed =
                        "'layer_types': ['full_attention', 'sliding_attention', "
                        "'full_attention']";
  for (const std::string& type : {std::string("llama"), std::string("gpt2")}) {
    check_changes_nothing(type, full);
    check_changes_nothing(type, "'layer_types': null");
    check_unsupported(json(keys_of(type) + ", 'sliding_window': 5, " + sliding),
                      "'layer_types[0]' is the text 'sliding_attention', which is not supported; "
                      "it needs full_attention, as the model has no sliding window");
  }
  check_changes_nothing("mistral", sliding);
  CHECK(attention_of(of("mistral", "'sliding_window': 3, " + sliding)).options.window->left == 2);
  CHECK(!attention_of(of("mistral", "'sliding_window': null, " + full)).options.window);
  const std::string mistral = keys_of("mistral") + ", ";
  CHECK(!attention_of(of("mistral", full)).options.window);
  check_unsupported(json(mistral + "'sliding_window': null, " + sliding), "no sliding window");
  check_unsupported(json(mistral + "'use_sliding_window': false"),
                    "'use_sliding_window' is false, which is not supported; it needs true");
  CHECK(!attention_of(of("mistral", "'use_sliding_window': false, 'sliding_window': null"))
             .options.window);
  for (const std::string type : {"qwen2", "qwen3"}) {
    const std::string qwen = keys_of(type) + ", ";
    check_unsupported(json(qwen + sliding), "no sliding window");
    check_unsupported(json(qwen + "'use_sliding_window': true, 'sliding_window': null, " + sliding),
                      "no sliding window");
  }
  const auto windows = of("mistral", "'sliding_window': 3, " + mixed).settings.layers;
  CHECK(!windows[0].attention.options.window);
  CHECK(windows[1].attention.options.window->left == 2);
  CHECK(!windows[1].attention.options.window->right);
  const auto both_ways =
      of("mistral", "'sliding_window': 3, 'is_causal': false, " + mixed).settings.layers;
  CHECK(!both_ways[0].attention.options.causal);
  CHECK(both_ways[1].attention.options.window->left == 3);
  CHECK(both_ways[1].attention.options.window->right == 3);
  for (const std::string& type : all_types) {
    if (type != "mistral") {
      check_unsupported(json(keys_of(type) + ", " + mixed),
                        "'layer_types[1]' is the text 'sliding_attention', which is not supported; "
                        "it needs full_attention, as the model has no sliding window");
    }
    check_unsupported(
        json(keys_of(type) + ", 'layer_types': ['chunked_attention', 'full_attention', null]"),
        "'layer_types[0]' is the text 'chunked_attention'");
    check_broken(json(keys_of(type) + ", 'layer_types': ['full_attention']"),
                 "it needs a type for each layer");
  }
}

TEST_CASE("null is a missing key, for each flag and each number that has a default") {
  const std::string of_all =
      "'tie_word_embeddings': null, 'max_position_embeddings': null, 'quantization_config': null, ";
  const std::string of_llamas =
      of_all +
      "'attention_bias': null, 'mlp_bias': null, 'use_sliding_window': null, "
      "'max_window_layers': null, 'layer_types': null, 'hidden_act': null, 'rope_scaling': null, "
      "'rope_parameters': null, 'partial_rotary_factor': null";
  for (const std::string& type : llama_like) check_changes_nothing(type, of_llamas);
  check_changes_nothing(
      "gpt2", of_all +
                  "'n_positions': null, 'n_ctx': null, 'n_inner': null, 'activation_function': "
                  "null, 'scale_attn_weights': null, 'scale_attn_by_inverse_layer_idx': null, "
                  "'add_cross_attention': null, 'hidden_size': null");
  CHECK(std::get<Llama3RopeScaling>(
            attention_of(of("llama",
                            "'rope_scaling': {'rope_type': 'llama3', 'factor': 8, "
                            "'low_freq_factor': 1, 'high_freq_factor': 4, "
                            "'original_max_position_embeddings': null}"))
                .rope->scaling)
            .original_max_positions == 2048);
  // Transformers computes no model whose theta or epsilon is null.
  for (const std::string& type : llama_like) {
    check_broken(json(keys_of(type) + ", 'rope_theta': null"), "'rope_theta' is null; it needs");
    check_broken(json(keys_of(type) + ", 'rms_norm_eps': null"), "'rms_norm_eps' is null");
    check_broken(json(keys_of(type) + ", 'rope_theta': 5, 'rope_parameters': {'rope_theta': null}"),
                 "'rope_parameters.rope_theta' is null; it needs a number");
  }
  CHECK(attention_of(of("llama", "'rope_theta': null, 'rope_parameters': {'rope_theta': 9}"))
            .rope->theta == 9);
  check_broken(json(keys_of("llama") + ", 'rope_scaling': {'type': 'linear', 'factor': null}"),
               "'rope_scaling.factor' is null; it needs a number");
}

TEST_CASE("the positions of a model with scaled positions") {
  const auto positions = [](const std::string& more) {
    return attention_of(of("llama", more)).max_positions;
  };
  for (const std::string name : {"rope_scaling", "rope_parameters"}) {
    const auto scaled = [&](const std::string& scaling) {
      return positions("'max_position_embeddings': 10, '" + name + "': {" + scaling + "}");
    };
    CHECK(scaled("'rope_type': 'linear', 'factor': 4") == 40);
    CHECK(scaled("'rope_type': 'linear', 'factor': 2.57") == 25);
    CHECK(scaled("'rope_type': 'linear', 'factor': 1") == 10);
    CHECK(scaled("'rope_type': 'linear', 'factor': 4, 'original_max_position_embeddings': 5") ==
          40);
    CHECK(scaled("'rope_type': 'default'") == 10);
    CHECK(scaled("'rope_type': 'dynamic', 'factor': 4") == 1 << 24);
    CHECK(scaled("'rope_type': 'yarn', 'factor': 4") == 40);
    CHECK(scaled("'rope_type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 5") == 20);
    CHECK(scaled("'rope_type': 'llama3', 'factor': 4, 'low_freq_factor': 1, 'high_freq_factor': 4, "
                 "'original_max_position_embeddings': 5") == 10);
  }
  CHECK(positions("'rope_scaling': {'type': 'linear', 'factor': 4}") == 8192);
  // More positions than the library's limit are not refused, since their first ones are of use.
  CHECK(positions("'rope_scaling': {'type': 'linear', 'factor': 1000000}") == 1 << 24);
}

TEST_CASE("where the scaling of positions is read from") {
  const auto rope = [](const std::string& more) { return *attention_of(of("llama", more)).rope; };
  // An empty rope_scaling is as good as none.
  CHECK(rope("'rope_scaling': {}, 'rope_parameters': {'rope_theta': 8}").theta == 8);
  const std::string llama3 =
      "'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1, 'high_freq_factor': 4";
  const auto original = [&](const std::string& more) {
    return std::get<Llama3RopeScaling>(rope(more).scaling).original_max_positions;
  };
  const std::string outside = "'original_max_position_embeddings': 100, 'rope_scaling': {" + llama3;
  CHECK(original(outside + "}") == 100);
  CHECK(original(outside + ", 'original_max_position_embeddings': 100}") == 100);
  check_broken(json(keys_of("llama") + ", " + outside + ", 'original_max_position_embeddings': 9}"),
               "'original_max_position_embeddings' is 100; it needs the 9 of the rope parameters");
  check_unsupported(json(keys_of("qwen3") + ", 'rope_parameters': {'sliding_attention': null}"),
                    "'rope_parameters.sliding_attention' is null, which is not supported");
  check_broken(json(keys_of("llama") + ", 'rope_scaling': {'type': 'dynamic'}"),
               "lacks 'rope_scaling.factor'");
}

TEST_CASE("is_causal says that a decoder is one; an encoder is none, whatever it says") {
  for (const std::string& type : all_types) {
    // Transformers takes null for false.
    check_refused_with(type == "mistral" ? ErrorCode::io : ErrorCode::unsupported,
                       json(keys_of(type) + ", 'is_causal': null"), "'is_causal' is null");
  }
  for (const std::string value : {"null", "true", "false"}) {
    const ModelConfig bert =
        of("bert", "'is_causal': " + value + ", 'use_bidirectional_attention': " + value);
    CHECK(!attention_of(bert).options.causal);
  }
}

TEST_CASE("positions of Gemma 3: rope_scaling is that of full layers, rope_parameters of all") {
  const std::string gemma3 = "'head_dim': 4, 'sliding_window_pattern': 2, ",
                    linear = "{'rope_type': 'linear', 'factor': 8}";
  const auto layers = of("gemma3_text", gemma3 + "'rope_scaling': " + linear).settings.layers;
  CHECK(std::holds_alternative<std::monostate>(layers[0].attention.rope->scaling));
  CHECK(std::get<LinearRopeScaling>(layers[1].attention.rope->scaling).factor == 8);
  const std::string keys = keys_of("gemma3_text") + ", " + gemma3;
  check_unsupported(
      json(keys + "'partial_rotary_factor': 0.5, 'rope_scaling': " + linear),
      "'partial_rotary_factor' is 0.5, which is not supported; it needs 1 beside scaled positions");
  check_unsupported(json(keys + "'rope_parameters': {'full_attention': " + linear +
                         "}, 'rope_scaling': " + linear),
                    "'rope_parameters' is an object, which is not supported; it needs null beside");
  check_unsupported(json(keys + "'rope_parameters': " + linear),
                    "which is not supported; it needs full_attention and sliding_attention");
}

TEST_CASE("original positions of Phi-3 stand at the top level, where they have a default") {
  const std::string factors =
      "'rope_scaling': {'type': 'longrope', 'short_factor': [1], 'long_factor': [2]";
  const auto original = [&](const std::string& more) {
    const ModelConfig config = of("phi3", factors + more);
    return std::get<LongRopeScaling>(attention_of(config).rope->scaling).original_max_positions;
  };
  CHECK(original("}") == 4096);
  CHECK(original(", 'original_max_position_embeddings': 4096}") == 4096);
  CHECK(original("}, 'original_max_position_embeddings': 32") == 32);
  check_broken(
      json(keys_of("phi3") + ", " + factors + ", 'original_max_position_embeddings': 32}"),
      "'rope_scaling.original_max_position_embeddings' is 32; it needs 4096 where the same key");
}

TEST_CASE("sizes of GPT-2 by the names of other families") {
  const ModelConfig config =
      parse(json("'model_type': 'gpt2', 'hidden_size': 64, 'num_hidden_layers': 3, "
                 "'num_attention_heads': 4, 'vocab_size': 50, 'max_position_embeddings': 33"));
  CHECK(attention_of(config).max_positions == 33);
  check_same(of("gpt2", "'n_positions': 33"), config);
  check_changes_nothing("gpt2", "'hidden_size': 64, 'num_attention_heads': 4");
  check_broken(json(keys_of("gpt2") + ", 'hidden_size': 32"),
               "'hidden_size' is 32; it needs the value of n_embd");
  check_broken(json(keys_of("gpt2") + ", 'num_hidden_layers': 2"), "it needs the value of n_layer");
}

TEST_CASE("what is not read costs linear time") {
  std::string objects = "{}";
  for (int n = 0; n < 300'000; ++n) objects += ",{}";
  check_same(of("llama", "'notes': [" + objects + "]"), parse(json(keys_of("llama"))));
  std::string keys = "'k': {'k': [0]}";
  for (int n = 0; n < 50'000; ++n)
    keys += ", 'k" + std::to_string(n) + "': {'k': [" + std::to_string(n) + "]}";
  check_same(of("llama", keys), parse(json(keys_of("llama"))));
}
