// Files for tests of the tokenizer, as JSON that a test can change.
#pragma once

#include <attn/tokenizer.hpp>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/files.hpp"

namespace attn::test {

/// A model whose vocabulary is the letters a to z, the space, which byte-level files spell as
/// U+0120, and `entries`.
inline nlohmann::json model_of(const std::vector<std::string>& entries,
                               const nlohmann::json& merges) {
  nlohmann::json vocab;
  for (char c = 'a'; c <= 'z'; ++c) vocab[std::string(1, c)] = c - 'a';
  vocab["\u0120"] = 26;
  for (std::size_t n = 0; n < entries.size(); ++n) vocab[entries[n]] = 27 + n;
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
}

inline nlohmann::json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", use_regex}};
}

inline nlohmann::json small_file() {
  return {{"model", model_of({"ab", "abc"}, nlohmann::json::array({"a b", "ab c"}))},
          {"pre_tokenizer", byte_level(false, true)},
          {"added_tokens",
           nlohmann::json::array({{{"id", 40}, {"content", "<end>"}, {"special", true}}})}};
}

inline Tokenizer tokenizer_from(const Folder& folder, const nlohmann::json& file) {
  return Tokenizer::from_file(folder.write("tokenizer.json", file.dump()));
}

}  // namespace attn::test
