// tokenizer.json, read and checked.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/added_tokens.hpp"
#include "model/merges.hpp"
#include "model/split.hpp"

namespace attn::model {

/// The last step of the pre_tokenizer.
struct ByteLevel {
  bool add_prefix_space = false;
  std::optional<Split> split;  // GPT-2's pattern
};

struct TokenizerFile {
  std::string name;

  // Of the model.
  std::vector<std::string> pieces;  // bytes by id; an empty one is no token
  std::array<std::optional<TokenId>, 256> byte_ids;
  std::optional<TokenId> unknown;  // for bytes without a token
  bool fuse_unknown = false;       // one for a run of them
  Merges merges;
  std::unordered_map<std::string, TokenId>
      whole_pieces;  // taken without merging; empty unless ignore_merges

  std::vector<AddedToken> added;
  AddedTokens added_before, added_after;  // normalization
  std::vector<bool> special;              // by id
  bool nfc = false;
  std::vector<Split> splits;
  ByteLevel byte_level;
  std::vector<std::int64_t> before, after;  // what the post_processor puts around a text

  bool names(std::int64_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < pieces.size() &&
           !pieces[static_cast<std::size_t>(id)].empty();
  }
};

/// Throws Error(io) or Error(unsupported), naming the file.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

}  // namespace attn::model
