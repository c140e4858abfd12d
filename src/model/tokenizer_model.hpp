// The part "model" of a tokenizer.json: the vocabulary and how words are merged from it.
#pragma once

#include <string_view>
#include <unordered_map>

#include "io/json.hpp"
#include "model/tokenizer_file.hpp"

namespace attn::model {

/// The largest vocabularies in use have some 260,000 tokens.
inline constexpr std::int64_t max_id = (1 << 20) - 1;

/// The model's tokens by their text. The views point into the parsed file.
using Vocabulary = std::unordered_map<std::string_view, TokenId>;

bool is_text(const io::JsonObject& object, std::string_view key, std::string_view text);
/// Sets the bytes of an id.
void set_piece(TokenizerFile& file, std::int64_t id, std::string bytes);

/// Reads a BPE or a WordPiece. `file.byte_level` has been read: with it, the tokens of a BPE are
/// spelled in its alphabet. Returns the tokens, whose texts are views into `model`.
Vocabulary read_model(const io::JsonObject& model, TokenizerFile& file);

}  // namespace attn::model
