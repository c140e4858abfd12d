// tokenizer.json of Hugging Face's tokenizers, read and checked.
// Format: https://huggingface.co/docs/tokenizers
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/added_tokens.hpp"
#include "model/merges.hpp"
#include "model/split.hpp"

namespace attn::model {

/// The ByteLevel step, which is the last one of the pre_tokenizer.
struct ByteLevel {
  bool add_prefix_space = false;
  std::optional<Split> split;  // by GPT-2's pattern
};

struct TokenizerFile {
  std::string name;

  // From the part "model".
  std::vector<std::string> pieces;  // the bytes of each id; empty if the id is no token
  std::array<std::optional<TokenId>, 256> byte_ids;
  std::optional<TokenId> unknown;  // stands for bytes without a token
  bool fuse_unknown = false;       // a run of such bytes becomes one token
  Merges merges;
  /// Pieces that become a token without merging; empty unless ignore_merges is set.
  std::unordered_map<std::string, TokenId> whole_pieces;

  std::vector<AddedToken> added;
  AddedTokens added_before, added_after;  // those that are found before and after normalization
  std::vector<bool> special;              // by id
  bool nfc = false;
  std::vector<Split> splits;
  ByteLevel byte_level;
  std::vector<std::int64_t> before, after;  // ids that are put around a text
  std::vector<std::string> notices;         // of settings that were read and are not followed

  /// The id of an added token or, if there is none, of a token of the vocabulary.
  std::optional<std::int64_t> find(std::string_view text) const;
  bool names(std::int64_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < pieces.size() &&
           !pieces[static_cast<std::size_t>(id)].empty();
  }
};

/// Throws Error(io) for a broken file and Error(unsupported) for parts that the library lacks, both
/// with the name of the file.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

}  // namespace attn::model
