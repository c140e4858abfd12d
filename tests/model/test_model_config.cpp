// config.json: which setting each key becomes, and the defaults of missing keys.
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "model/config.hpp"
#include "support/model_config.hpp"

using namespace attn;
using namespace attn::test;
using model::Family;
using model::ModelConfig;

namespace {

using Ids = std::vector<std::int64_t>;

ModelConfig of(const std::string& type, const std::string& more = "") {
  return parse(json(sizes_of(type) + (more.empty() ? "" : ", " + more)));
}

ModelConfig gpt2(const std::string& more = "") {
  return parse(json(gpt2_sizes + (more.empty() ? "" : ", " + more)));
}

}  // namespace

TEST_CASE("Llama by default") {
  const ModelConfig config = of("llama");
  CHECK(config.family == Family::llama);
  CHECK(config.settings.layers.size() == 3);
  CHECK(config.settings.vocab_size == 50);
  const LayerSettings& layer = config.settings.layers.front();
  CHECK(layer.mlp == MlpKind::swiglu);
  CHECK(layer.mlp_width == 100);
  CHECK(layer.norm.kind == NormKind::rms);
  CHECK(layer.norm.epsilon == 1e-6f);
  const AttentionSettings& attention = layer.attention;
  CHECK(attention.hidden == 64);
  CHECK(attention.num_q_heads == 32);
  CHECK(attention.num_kv_heads == 32);
  CHECK(attention.head_dim == 2);
  CHECK(attention.max_positions == 2048);
  CHECK(attention.options.causal);
  CHECK(!attention.options.window);
  CHECK(!attention.options.softmax_scale);
  REQUIRE(attention.rope);
  CHECK(attention.rope->theta == 10000);
  CHECK(!attention.rope->rotary_dim);
  CHECK(!attention.rope->interleaved);
  CHECK(std::holds_alternative<std::monostate>(attention.rope->scaling));
  CHECK(!config.qkv_bias);
  CHECK(!config.out_bias);
  CHECK(!config.mlp_bias);
  CHECK(!config.qk_norm);
  CHECK(!config.tied);
  CHECK(config.bos_id == 1);
  CHECK(config.eos_ids == Ids{2});
}

TEST_CASE("Llama's keys") {
  const ModelConfig config =
      of("llama",
         "'num_key_value_heads': 8, 'head_dim': 6, 'rms_norm_eps': 1e-05, "
         "'max_position_embeddings': 999, "
         "'rope_theta': 500000, 'attention_bias': true, 'mlp_bias': true, 'tie_word_embeddings': "
         "true, "
         "'bos_token_id': null, 'eos_token_id': [7, 8], 'hidden_act': 'silu', 'sliding_window': 5, "
         "'partial_rotary_factor': 0.67, 'torch_dtype': 'bfloat16', 'architectures': ['X'], "
         "'use_cache': true");
  const AttentionSettings& attention = config.settings.layers.front().attention;
  CHECK(attention.num_kv_heads == 8);
  CHECK(attention.head_dim == 6);
  CHECK(attention.max_positions == 999);
  CHECK(attention.rope->theta == 500000);
  CHECK(!attention.rope->rotary_dim);  // Llama rotates all of a head
  CHECK(!attention.options.window);
  CHECK(config.settings.layers.front().norm.epsilon == 1e-5f);
  CHECK(config.qkv_bias);
  CHECK(config.out_bias);
  CHECK(config.mlp_bias);
  CHECK(config.tied);
  CHECK(!config.bos_id);
  CHECK(config.eos_ids == Ids{7, 8});
  CHECK(of("llama", "'num_key_value_heads': null, 'head_dim': null, 'rope_scaling': null")
            .settings.layers.front()
            .attention.num_kv_heads == 32);
  CHECK(of("llama", "'eos_token_id': null").eos_ids.empty());
  CHECK(of("llama", "'eos_token_id': 0").eos_ids == Ids{0});
}

TEST_CASE("scaled positions") {
  const auto scaling = [](const std::string& more) {
    return of("llama", more).settings.layers.front().attention.rope->scaling;
  };
  CHECK(std::get<LinearRopeScaling>(scaling("'rope_scaling': {'type': 'linear', 'factor': 2.5}"))
            .factor == 2.5);
  CHECK(std::get<LinearRopeScaling>(
            scaling("'rope_scaling': {'rope_type': 'linear', 'type': 'linear', 'factor': 4}"))
            .factor == 4);
  CHECK(
      std::holds_alternative<std::monostate>(scaling("'rope_scaling': {'rope_type': 'default'}")));
  CHECK(std::get<DynamicRopeScaling>(scaling("'rope_scaling': {'type': 'dynamic', 'factor': 2}"))
            .factor == 2);
  CHECK(std::get<Llama3RopeScaling>(scaling("'max_position_embeddings': 512, 'rope_scaling': "
                                            "{'rope_type': 'llama3', 'factor': 8, "
                                            "'low_freq_factor': 1, 'high_freq_factor': 4}"))
            .original_max_positions == 512);
  const std::string llama3 =
      "'rope_type': 'llama3', 'factor': 32.0, 'low_freq_factor': 1.5, 'high_freq_factor': 5.0, "
      "'original_max_position_embeddings': 4096";
  for (const std::string name : {"rope_scaling", "rope_parameters"}) {
    const auto got = std::get<Llama3RopeScaling>(scaling("'" + name + "': {" + llama3 + "}"));
    CHECK(got.factor == 32);
    CHECK(got.low_freq_factor == 1.5);
    CHECK(got.high_freq_factor == 5);
    CHECK(got.original_max_positions == 4096);
  }
  const RopeSettings newer = *of("qwen3",
                                 "'rope_theta': 7, 'rope_parameters': {'rope_theta': 1e6, "
                                 "'rope_type': 'default', 'partial_rotary_factor': 0.25}")
                                  .settings.layers.front()
                                  .attention.rope;
  CHECK(newer.theta == 1e6);
  CHECK(!newer.rotary_dim);
  CHECK(std::holds_alternative<std::monostate>(newer.scaling));
  CHECK(
      of("llama",
         "'rope_theta': 7, 'rope_scaling': {'rope_theta': 9}, 'rope_parameters': {'rope_theta': 8}")
          .settings.layers.front()
          .attention.rope->theta == 9);
  CHECK(of("llama", "'rope_theta': 7, 'rope_parameters': {}")
            .settings.layers.front()
            .attention.rope->theta == 7);
}

TEST_CASE("defaults of the variants of Llama") {
  const ModelConfig qwen2 = of("qwen2"), qwen3 = of("qwen3"), mistral = of("mistral");
  CHECK(qwen2.qkv_bias);
  CHECK(!qwen2.out_bias);
  CHECK(!qwen2.qk_norm);
  CHECK(qwen2.settings.layers.front().attention.num_kv_heads == 32);
  CHECK(qwen2.settings.layers.front().attention.head_dim == 2);
  CHECK(qwen2.settings.layers.front().attention.max_positions == 32768);
  CHECK(!qwen2.settings.layers.front().attention.options.window);
  CHECK(!qwen2.bos_id);
  CHECK(qwen2.eos_ids.empty());
  CHECK(of("qwen2", "'attention_bias': false").qkv_bias);

  CHECK(!qwen3.qkv_bias);
  CHECK(qwen3.qk_norm);
  CHECK(qwen3.settings.layers.front().attention.head_dim == 128);
  CHECK(of("qwen3", "'rms_norm_eps': 1e-3").settings.layers.front().attention.qk_norm.epsilon ==
        1e-3f);
  CHECK(of("qwen3", "'attention_bias': true").out_bias);

  CHECK(mistral.settings.layers.front().attention.num_kv_heads == 8);
  CHECK(mistral.settings.layers.front().attention.max_positions == 131072);
  CHECK(mistral.settings.layers.front().attention.options.window->left == 4095);
  CHECK(!of("mistral", "'attention_bias': true").qkv_bias);
  CHECK(mistral.eos_ids == Ids{2});
}

TEST_CASE("sliding windows") {
  const auto window = [](const std::string& type, const std::string& more) {
    return of(type, more).settings.layers.front().attention.options.window;
  };
  CHECK(!window("mistral", "'sliding_window': null"));
  CHECK(window("mistral", "'sliding_window': 5")->left == 4);
  CHECK(!window("mistral", "'sliding_window': 5")->right);
  CHECK(window("mistral", "'sliding_window': 1")->left == 0);
  for (const std::string type : {"qwen2", "qwen3"}) {
    CHECK(!window(type, "'sliding_window': 5, 'max_window_layers': 0"));
    CHECK(
        !window(type, "'use_sliding_window': false, 'sliding_window': 5, 'max_window_layers': 2"));
    CHECK(window(type, "'use_sliding_window': true, 'sliding_window': 5, 'max_window_layers': 0")
              ->left == 4);
    CHECK(!window(type,
                  "'use_sliding_window': true, 'sliding_window': null, 'max_window_layers': 0"));
    CHECK(!window(type, "'use_sliding_window': true, 'sliding_window': 5, 'max_window_layers': 3"));
    CHECK(!window(type, "'use_sliding_window': true, 'sliding_window': 5"));
    const std::string full = "'full_attention'", sliding = "'sliding_attention'",
                      sliding_on = "'use_sliding_window': true, 'layer_types': [";
    CHECK(!window(type, sliding_on + full + "," + full + "," + full + "]"));
    CHECK(window(type, sliding_on + sliding + "," + sliding + "," + sliding + "]")->left == 4095);
    const auto text = [&](const std::string& more) { return json(sizes_of(type) + ", " + more); };
    const auto windows = [&](const std::string& more) {
      std::string seen;
      for (const LayerSettings& layer : of(type, more).settings.layers)
        seen += layer.attention.options.window ? 's' : 'f';
      return seen;
    };
    CHECK(windows(sliding_on + full + "," + sliding + "," + full + "]") == "fsf");
    CHECK(windows("'use_sliding_window': true, 'max_window_layers': 2") == "ffs");
    check_unsupported(text(sliding_on + full + ",'linear',1]"),
                      "full_attention or sliding_attention");
    check_broken(text(sliding_on + full + "]"),
                 "'layer_types' is a list; it needs a type for each layer");
  }
  check_broken(json(sizes_of("mistral") + ", 'sliding_window': 0"),
               "'sliding_window' is 0; it needs a whole number in 1..");
  check_broken(json(sizes_of("qwen2") + ", 'use_sliding_window': 1"),
               "'use_sliding_window' is 1; it needs true or false");
}

TEST_CASE("GPT-2") {
  const ModelConfig config = gpt2();
  CHECK(config.family == Family::gpt2);
  CHECK(config.settings.layers.size() == 3);
  CHECK(config.settings.vocab_size == 50);
  const LayerSettings& layer = config.settings.layers.front();
  CHECK(layer.mlp == MlpKind::gelu_tanh);
  CHECK(layer.mlp_width == 256);
  CHECK(layer.norm.kind == NormKind::layer);
  CHECK(layer.norm.epsilon == 1e-5f);
  CHECK(layer.attention.head_dim == 16);
  CHECK(layer.attention.num_kv_heads == 4);
  CHECK(layer.attention.max_positions == 1024);
  CHECK(!layer.attention.rope);
  CHECK(!layer.attention.options.softmax_scale);
  CHECK(config.tied);
  CHECK(config.bos_id == 50256);
  CHECK(config.eos_ids == Ids{50256});

  const ModelConfig other = gpt2(
      "'n_inner': 77, 'n_positions': 33, 'n_ctx': 44, 'layer_norm_epsilon': 1e-6, "
      "'activation_function': 'gelu', "
      "'tie_word_embeddings': false, 'scale_attn_weights': false, 'reorder_and_upcast_attn': true, "
      "'eos_token_id': 3");
  CHECK(other.settings.layers.front().mlp == MlpKind::gelu);
  CHECK(other.settings.layers.front().mlp_width == 77);
  CHECK(other.settings.layers.front().norm.epsilon == 1e-6f);
  CHECK(other.settings.layers.front().attention.max_positions == 33);
  CHECK(other.settings.layers.front().attention.options.softmax_scale == 1.0f);
  CHECK(!other.tied);
  CHECK(other.eos_ids == Ids{3});
  CHECK(gpt2("'n_ctx': 44, 'n_inner': null").settings.layers.front().attention.max_positions == 44);
  CHECK(gpt2("'n_inner': null").settings.layers.front().mlp_width == 256);
  for (const std::string name : {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"}) {
    CHECK(gpt2("'activation_function': '" + name + "'").settings.layers.front().mlp ==
          MlpKind::gelu_tanh);
  }

  for (const std::string key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
    check_unsupported(changed(gpt2_sizes, key, "true"),
                      "'" + key + "' is true, which is not supported; it needs false");
  }
  for (const std::string name : {"relu", "silu", "quick_gelu", "tanh", ""}) {
    check_unsupported(changed(gpt2_sizes, "activation_function", "'" + name + "'"),
                      "'activation_function' is the text '" + name + "'");
  }
  check_broken(changed(gpt2_sizes, "n_head", "5"),
               "'n_embd' is 64; it needs a multiple of n_head 5");
}
