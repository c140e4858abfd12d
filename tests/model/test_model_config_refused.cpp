// config.json: what is refused, as broken or as not supported.
#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <string>

#include "model/config.hpp"
#include "support/files.hpp"
#include "support/model_config.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("scalings of positions that are broken or not computed") {
  const auto text = [](const std::string& more) { return json(sizes_of("llama") + ", " + more); };
  for (const std::string type : {"su", "mrope", "", "Linear"}) {
    check_unsupported(text("'rope_scaling': {'type': '" + type + "', 'factor': 2}"),
                      "'rope_scaling.type' is the text '" + type +
                          "', which is not supported; it needs default, dynamic, linear, llama3, "
                          "longrope or yarn");
    check_unsupported(text("'rope_parameters': {'rope_type': '" + type + "', 'factor': 2}"),
                      "'rope_parameters.rope_type' is");
  }
  check_unsupported(text("'rope_parameters': {'full_attention': {'rope_type': 'default'}}"),
                    "the same positions in all layers");
  check_broken(text("'rope_scaling': {'factor': 2}"), "lacks 'rope_scaling.rope_type'");
  check_broken(text("'rope_scaling': {'type': 'linear'}"), "lacks 'rope_scaling.factor'");
  check_broken(text("'rope_scaling': {'type': 'linear', 'factor': 0}"),
               "'rope_scaling.factor' is 0; it needs a number in 1..");
  check_broken(text("'rope_scaling': {'type': 'linear', 'factor': '2'}"),
               "is the text '2'; it needs a number");
  check_broken(text("'rope_scaling': {'type': 3}"), "'rope_scaling.type' is 3; it needs a text");
  check_broken(text("'rope_scaling': 'linear'"),
               "'rope_scaling' is the text 'linear'; it needs an object");
  check_broken(text("'rope_scaling': {'type': 'llama3', 'factor': 8}"),
               "lacks 'rope_scaling.low_freq_factor'");
  check_broken(
      changed(sizes_of("llama"), "rope_scaling",
              "{'type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4, "
              "'original_max_position_embeddings': 8192}"),
      "'rope_scaling.low_freq_factor' is 4; it needs to be smaller than high_freq_factor");
  check_broken(text("'rope_theta': 0"), "'rope_theta' is 0; it needs a number");
  check_broken(text("'rope_theta': -1e4"), "it needs a number");
  check_broken(text("'rope_theta': null"), "'rope_theta' is null; it needs a number");
  const std::string phi3 = sizes_of("phi3") + ", ";
  check_broken(json(phi3 + "'partial_rotary_factor': 0.5"),
               "'partial_rotary_factor' is 0.5; it needs an even number of elements of head_dim 2");
  check_broken(json(phi3 + "'partial_rotary_factor': 1.5"), "it needs a number in 0..1");
  check_unsupported(
      text("'partial_rotary_factor': 0.5, 'rope_scaling': {'type': 'linear', 'factor': 2}"),
      "'partial_rotary_factor' is 0.5, which is not supported; it needs 1");
  check_broken(text("'head_dim': 5"), "head_dim 5 is odd");
}

TEST_CASE("numbers that make no model") {
  const auto check = [](const std::string& sizes, const std::string& key) {
    for (const std::string value :
         {"0", "-1", "2147483648", "9223372036854775808", "99999999999999999999", "1.5", "64.0",
          "1e3", "'64'", "null", "true", "[64]", "{}"}) {
      check_broken(changed(sizes, key, value), "'" + key + "' is ");
      check_broken(changed(sizes, key, value), "it needs a whole number in 1..");
    }
    for (const std::string value : {"NaN", "Infinity", "-Infinity", "1e", "01"})
      check_broken(changed(sizes, key, value), "is no JSON");
    check_broken(changed(sizes, key, "1e999"), "a number in it is too large");
    std::string without = changed(sizes, key, "0");
    without.replace(without.find("\"" + key + "\""), key.size() + 2, "\"x\"");
    check_broken(without, "lacks '" + key + "'");
  };
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "vocab_size"}) {
    check(sizes_of("llama"), key);
  }
  for (const char* key : {"n_embd", "n_layer", "n_head", "vocab_size"}) check(gpt2_sizes, key);

  const std::string llama = sizes_of("llama");
  check_broken(changed(llama, "num_hidden_layers", "10001"), "it needs a whole number in 1..10000");
  check_broken(changed(llama, "max_position_embeddings", "16777217"),
               "it needs a whole number in 1..16777216");
  check_broken(changed(llama, "num_attention_heads", "7"),
               "'hidden_size' is 64; it needs a multiple of num_attention_heads 7");
  check_broken(changed(llama, "num_key_value_heads", "5"),
               "'num_attention_heads' is 32; it needs a multiple of num_key_value_heads 5");
  check_broken(changed(llama, "num_key_value_heads", "0"), "'num_key_value_heads' is 0; it needs");
  check_broken(changed(llama, "head_dim", "0"), "'head_dim' is 0; it needs");
  for (const char* value : {"-1e-6", "2", "'1e-6'", "null", "false"}) {
    check_broken(changed(llama, "rms_norm_eps", value), "it needs a number in 0..1");
    check_broken(changed(gpt2_sizes, "layer_norm_epsilon", value), "it needs a number in 0..1");
  }
  for (const char* value : {"-1", "1.5", "'</s>'", "2147483648"})
    check_broken(changed(llama, "eos_token_id", value), "'eos_token_id' is ");
  check_broken(changed(llama, "eos_token_id", "[1, '2']"),
               "'eos_token_id[1]' is the text '2'; it needs a whole number in 0..2147483647");
  check_broken(changed(llama, "bos_token_id", "[1]"),
               "'bos_token_id' is a list; it needs a whole number");
  check_broken(changed(llama, "tie_word_embeddings", "'yes'"),
               "'tie_word_embeddings' is the text 'yes'; it needs true or false");
}

TEST_CASE("models that are not computed") {
  check_unsupported(
      json(sizes_of("gemma")),
      "'model_type' is the text 'gemma', which is not supported; it needs llama, mistral,");
  check_unsupported(json(sizes_of(std::string(300, 'x'))), "xxx...', which is not supported");
  check_unsupported(changed(sizes_of("llama"), "hidden_act", "'gelu'"),
                    "'hidden_act' is the text 'gelu', which is not supported; it needs silu");
  check_unsupported(changed(sizes_of("qwen2"), "hidden_act", "'tanh\\n'"), "'tanh\\x0a'");
  check_unsupported(changed(sizes_of("llama"), "quantization_config", "{'bits': 4}"),
                    "'quantization_config' is an object");
  check_broken("{}", "lacks 'model_type'");
  check_broken(json("'model_type': 3"), "'model_type' is 3; it needs a text");
}

TEST_CASE("files that are no config") {
  check_broken("", "is empty");
  check_broken(" ", "is no JSON");
  check_broken("{", "its byte 2 is no JSON in UTF-8");
  check_broken("null", "is null; it needs to be an object");
  check_broken("[{}]", "is a list; it needs to be an object");
  check_broken("{}{}", "is no JSON");
  check_broken(std::string("{}\0", 3), "its byte 2 is no JSON");
  check_broken("{\"\xff\": 1}", "is no JSON in UTF-8");
  check_broken(json(sizes_of("llama") + ", 'vocab_size': 50"), "'vocab_size' stands twice");
  check_broken(json("'a': {'b': 1, 'b': 1}"), "'b' stands twice");
  check_broken(json("'a': " + std::string(1'000'000, '[')), "is nested deeper than 32 levels");
  check_broken(std::string(1'000'000, '['), "is nested deeper");
  const Folder folder;
  CHECK(refusal([&] {
          model::read_config(folder / "config.json");
        }).find("config.json: no such file") != std::string::npos);
  CHECK(refusal([&] { model::read_config(folder / ""); }).find("is a directory") !=
        std::string::npos);
}

TEST_CASE("configs that are cut or changed are read or refused, nothing else") {
  const Folder folder;
  const std::string text = json(
      sizes_of("qwen3") + ", 'rope_scaling': {'type': 'linear', 'factor': 2}, 'eos_token_id': [1]");
  const auto attempt = [&](const std::string& bytes) {
    try {
      model::read_config(folder.write("config.json", bytes));
    } catch (const Error&) {
    }
  };
  for (std::size_t place = 0; place < text.size(); ++place) {
    attempt(text.substr(0, place));
    for (const char value : {'\0', '"', '-', '9', '[', '{', '}', ',', '\x80', '\xff'}) {
      std::string other = text;
      other[place] = value;
      attempt(other);
    }
  }
}
