// Files for tests of model configurations, as text that a test can change.
#pragma once

#include <attn/error.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "model/config.hpp"
#include "support/files.hpp"

namespace attn::test {

/// A config.json of these keys, which are written with single quotes: "'a': 1, 'b': true".
inline std::string json(std::string keys) {
  for (char& c : keys) c = c == '\'' ? '"' : c;
  return "{" + keys + "}";
}

inline model::ModelConfig parse(const std::string& text) {
  const Folder folder;
  return model::read_config(folder.write("config.json", text));
}

inline std::string sizes_of(const std::string& type) {
  return "'model_type': '" + type +
         "', 'hidden_size': 64, 'num_hidden_layers': 3, 'num_attention_heads': 32, "
         "'intermediate_size': 100, 'vocab_size': 50";
}

inline constexpr const char* gpt2_sizes =
    "'model_type': 'gpt2', 'n_embd': 64, 'n_layer': 3, 'n_head': 4, 'vocab_size': 50";

/// Checks that a config.json is refused, with one line that names the file and the fault.
inline void check_refused_with(ErrorCode code, const std::string& text, const std::string& fault) {
  CAPTURE(text.substr(0, 1000));
  CAPTURE(fault);
  try {
    parse(text);
    FAIL_CHECK("not refused");
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == code);
    CHECK(message.find("config.json: ") != std::string::npos);
    CHECK(message.find(fault) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 500);
  }
}
inline void check_broken(const std::string& text, const std::string& fault) {
  check_refused_with(ErrorCode::io, text, fault);
}
inline void check_unsupported(const std::string& text, const std::string& fault) {
  check_refused_with(ErrorCode::unsupported, text, fault);
}

/// A config.json of `keys`, with another value for one of them.
inline std::string changed(const std::string& keys, const std::string& key,
                           const std::string& value) {
  const std::string named = "'" + key + "': ";
  const std::size_t begin = keys.find(named);
  if (begin == std::string::npos) return json(keys + ", " + named + value);
  const std::size_t end = std::min(keys.find(", ", begin), keys.size());
  return json(keys.substr(0, begin) + named + value + keys.substr(end));
}

}  // namespace attn::test
