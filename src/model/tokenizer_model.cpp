#include "model/tokenizer_model.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "io/message.hpp"
#include "model/byte_level.hpp"
#include "model/unicode.hpp"

namespace attn::model {

using io::in_quotes;
using io::JsonObject;
using nlohmann::json;

namespace {

/// The byte that "<0x0A>" stands for.
std::optional<unsigned char> byte_of(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  const std::size_t high = digits.find(text[3]), low = digits.find(text[4]);
  if (high == digits.npos || low == digits.npos) return std::nullopt;
  return static_cast<unsigned char>(16 * high + low);
}

/// Notes what a token of the vocabulary stands for.
void add_token(const std::string& text, TokenId id, TokenizerFile& file) {
  if (file.symbols != Symbols::bytes) {
    set_piece(file, id, text);
    if (file.symbols != Symbols::characters) return;
    if (first_character(text).size == text.size()) file.character_ids.emplace(text, id);
    if (const std::optional<unsigned char> byte = byte_of(text)) file.byte_ids[*byte] = id;
    return;
  }
  const std::optional<std::string> bytes = spelled_bytes(text);
  set_piece(file, id, bytes.value_or(text));
  if (bytes && bytes->size() == 1) file.byte_ids[static_cast<unsigned char>(bytes->front())] = id;
}

Vocabulary read_vocabulary(const JsonObject& model, TokenizerFile& file) {
  const json& vocab = model.at("vocab");
  if (!vocab.is_object()) model.refuse("vocab", "an object of tokens and ids");
  Vocabulary vocabulary;
  vocabulary.reserve(vocab.size());
  file.pieces.reserve(vocab.size());
  for (const auto& [text, value] : vocab.items()) {
    if (text.empty()) model.fail("model.vocab holds a token without text");
    const std::optional<std::int64_t> number = io::whole_number(value, 0, max_id);
    if (!number) {
      const std::string got = value.is_primitive() ? value.dump() : "no number";
      model.fail(fmt::format("the id of token {} is {}; it needs to be a whole number in 0..{}",
                             in_quotes(text), in_quotes(got), max_id));
    }
    const auto id = static_cast<TokenId>(*number);
    if (file.names(id))
      model.fail(
          fmt::format("token {} has the id {}, which another token has too", in_quotes(text), id));
    add_token(text, id, file);
    vocabulary.emplace(text, id);
  }
  if (vocabulary.empty()) model.fail("model.vocab is empty");
  return vocabulary;
}

/// The two sides of a merge, either ["a", "b"] or "a b".
std::pair<std::string, std::string> sides_of(const JsonObject& model, const json& merge,
                                             std::size_t number) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  model.fail(fmt::format(R"(model.merges[{}] is no pair; it needs "a b" or ["a", "b"])", number));
}

void read_merges(const JsonObject& model, const Vocabulary& vocabulary, TokenizerFile& file) {
  const json& merges = model.at("merges");
  if (!merges.is_array()) model.refuse("merges", "a list of pairs");
  file.merges.reserve(merges.size());
  std::uint32_t number = 0;
  for (const json& merge : merges) {
    const std::uint32_t rank = number++;
    // A list that was made from GPT-2's merges.txt may still have the first line of that file.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const std::pair<std::string, std::string> sides = sides_of(model, merge, rank);
    const auto& left = sides.first;  // lambdas of Clang 14 cannot capture structured bindings
    const auto& right = sides.second;
    const auto id_of = [&](const std::string& text) {
      const auto found = vocabulary.find(text);
      if (found == vocabulary.end()) {
        model.fail(fmt::format("model.merges[{}] is of {} and {}, but model.vocab lacks {}", rank,
                               in_quotes(left), in_quotes(right), in_quotes(text)));
      }
      return found->second;
    };
    const TokenId left_id = id_of(left), right_id = id_of(right);
    file.merges.add(left_id, right_id, rank, id_of(left + right));
  }
}

void read_unknown(const JsonObject& model, const Vocabulary& vocabulary, TokenizerFile& file) {
  file.fuse_unknown = model.has("fuse_unk") && model.flag("fuse_unk");
  if (!model.has("unk_token") || model.text("unk_token").empty()) return;
  const auto found = vocabulary.find(model.text("unk_token"));
  if (found == vocabulary.end()) model.refuse("unk_token", "a token of model.vocab");
  file.unknown = found->second;
}

/// Pieces that are tokens by themselves, with ignore_merges.
void read_whole_pieces(const Vocabulary& vocabulary, TokenizerFile& file) {
  for (const auto& [text, id] : vocabulary) {
    if (file.symbols == Symbols::characters) {
      file.whole_pieces.emplace(text, id);
    } else if (std::optional<std::string> bytes = spelled_bytes(text)) {
      file.whole_pieces.emplace(std::move(*bytes), id);
    }
  }
}

Vocabulary read_bpe(const JsonObject& model, TokenizerFile& file) {
  for (const char* const affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(affix) && !model.text(affix).empty()) model.unsupported(affix, "none");
  }
  if (model.has("dropout") && model.number("dropout", 0, 1) > 0)
    model.unsupported("dropout", "none");
  file.symbols = file.byte_level ? Symbols::bytes : Symbols::characters;
  file.byte_fallback = model.has("byte_fallback") && model.flag("byte_fallback");
  if (file.byte_fallback && file.byte_level)
    model.unsupported("byte_fallback", "false beside a ByteLevel pre_tokenizer");
  Vocabulary vocabulary = read_vocabulary(model, file);
  read_merges(model, vocabulary, file);
  read_unknown(model, vocabulary, file);
  if (model.has("ignore_merges") && model.flag("ignore_merges"))
    read_whole_pieces(vocabulary, file);
  return vocabulary;
}

Vocabulary read_word_piece(const JsonObject& model, TokenizerFile& file) {
  constexpr std::int64_t most_characters = 1 << 20, default_characters = 100;
  file.symbols = Symbols::words;
  if (file.byte_level) model.unsupported("type", "BPE beside a ByteLevel pre_tokenizer");
  Vocabulary vocabulary = read_vocabulary(model, file);
  const auto unknown = vocabulary.find(model.text("unk_token"));
  if (unknown == vocabulary.end()) model.refuse("unk_token", "a token of model.vocab");
  const std::int64_t characters =
      model.integer_or("max_input_chars_per_word", default_characters, 0, most_characters);
  file.word_piece.emplace(model.text("continuing_subword_prefix"),
                          static_cast<std::size_t>(characters), unknown->second);
  for (const auto& [text, id] : vocabulary) file.word_piece->add(text, id);
  return vocabulary;
}

}  // namespace

bool is_text(const JsonObject& object, std::string_view key, std::string_view text) {
  return object.has(key) && object.text(key) == text;
}

void set_piece(TokenizerFile& file, std::int64_t id, std::string bytes) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= file.pieces.size()) file.pieces.resize(index + 1);
  file.pieces[index] = std::move(bytes);
}

Vocabulary read_model(const JsonObject& model, TokenizerFile& file) {
  // Older files, such as that of GPT-2, have no type. Only WordPiece has a longest word.
  const bool is_word_piece =
      model.has("type") ? model.text("type") == "WordPiece" : model.has("max_input_chars_per_word");
  if (is_word_piece) return read_word_piece(model, file);
  if (model.has("type") && model.text("type") != "BPE")
    model.unsupported("type", "BPE or WordPiece");
  return read_bpe(model, file);
}

}  // namespace attn::model
