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
#include "model/normalizer.hpp"
#include "model/pre_tokenizer.hpp"
#include "model/split.hpp"
#include "model/word_piece.hpp"

namespace attn::model {

/// The ByteLevel step, which is the last one of the pre_tokenizer.
struct ByteLevel {
  bool add_prefix_space = false;
  std::optional<Split> split;  // by GPT-2's pattern
};

/// What a piece of text is merged from: its bytes, which the vocabulary spells in the alphabet of
/// byte_level.hpp, its characters, or, in WordPiece, nothing.
enum class Symbols { bytes, characters, words };

struct TokenizerFile {
  std::string name;

  // From the part "model".
  std::vector<std::string> pieces;  // the bytes of each id; empty if the id is no token
  Symbols symbols = Symbols::bytes;
  std::array<std::optional<TokenId>, 256> byte_ids;  // of bytes; of characters, by byte_fallback
  std::unordered_map<std::string, TokenId> character_ids;
  std::optional<TokenId> unknown;  // stands for what has no token
  bool fuse_unknown = false;       // a run of that becomes one token
  bool byte_fallback = false;      // a character without a token becomes the tokens of its bytes
  Merges merges;
  /// Pieces that become a token without merging; empty unless ignore_merges is set.
  std::unordered_map<std::string, TokenId> whole_pieces;
  std::optional<WordPiece> word_piece;

  std::vector<AddedToken> added;
  AddedTokens added_before, added_after;  // those that are found before and after normalization
  std::vector<bool> special;              // by id
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::optional<ByteLevel> byte_level;
  bool strips_space = false;                // decode() drops a space at the beginning
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
