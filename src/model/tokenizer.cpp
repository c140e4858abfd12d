#include <attn/error.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "io/message.hpp"
#include "model/tokenizer_config.hpp"
#include "model/tokenizer_file.hpp"
#include "model/unicode.hpp"

namespace attn {

using model::AddedTokens;
using model::TokenId;

struct Tokenizer::Parts : model::TokenizerFile {
  explicit Parts(model::TokenizerFile read) : TokenizerFile(std::move(read)) {}
};

namespace {

/// One call of encode. Each function splits its text and hands the parts to the next: text() at
/// added tokens, bytes() where UTF-8 is broken, characters() at the file's patterns, piece() at
/// GPT-2's; word() merges.
class Encoder {
 public:
  Encoder(const model::TokenizerFile& file, bool match_special, std::size_t text_size)
      : file_(file), match_special_(match_special), steps_(text_size) {}

  std::vector<std::int64_t> ids;

  void text(std::string_view text) {
    at_begin_ = true;
    for (const AddedTokens::Part& part : file_.added_before.split(text, match_special_)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        bytes(part.text);
      }
      at_begin_ = false;
    }
  }

 private:
  /// Patterns and normal forms are defined for characters, so that a run of bytes that are not
  /// UTF-8 becomes a word by itself.
  void bytes(std::string_view text) {
    for (bool first = true; !text.empty(); first = at_begin_ = false) {
      const std::size_t valid = model::valid_size(text);
      if (valid > 0) characters(text.substr(0, valid), first);
      text.remove_prefix(valid);
      const std::size_t invalid = model::invalid_size(text);
      if (invalid > 0) word(text.substr(0, invalid));
      text.remove_prefix(invalid);
    }
  }

  void characters(std::string_view text, bool first) {
    std::string normalized;
    if (!file_.normalizer.empty()) text = normalized = file_.normalizer(text, steps_);
    for (const AddedTokens::Part& part : file_.added_after.split(text, match_special_)) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        file_.pre_tokenizer.for_each_piece(part.text, at_begin_, steps_,
                                           [&](std::string_view each) { piece(each, first); });
      }
      at_begin_ = false;
    }
  }

  void piece(std::string_view piece, bool first) {
    if (!file_.byte_level) return word(piece);
    std::string spaced;
    if (file_.byte_level->add_prefix_space && first && !piece.starts_with(' '))
      piece = spaced.append(" ").append(piece);
    if (!file_.byte_level->split) return word(piece);
    for (const std::string_view each : (*file_.byte_level->split)(piece, steps_)) word(each);
  }

  void word(std::string_view word) {
    if (file_.word_piece) return file_.word_piece->append(word, ids);
    if (!file_.whole_pieces.empty()) {
      const auto whole = file_.whole_pieces.find(std::string(word));
      if (whole != file_.whole_pieces.end()) return ids.push_back(whole->second);
    }
    symbols_.clear();
    if (file_.symbols == model::Symbols::bytes) {
      add_bytes(word);
    } else {
      add_characters(word);
    }
    file_.merges.append(symbols_, scratch_, ids);
  }

  void add_bytes(std::string_view word) {
    for (const char each : word) {
      const auto byte = static_cast<unsigned char>(each);
      if (file_.byte_ids[byte]) {
        symbols_.push_back(*file_.byte_ids[byte]);
      } else if (file_.unknown &&
                 (!file_.fuse_unknown || symbols_.empty() || symbols_.back() != *file_.unknown)) {
        symbols_.push_back(*file_.unknown);
      }
    }
  }

  /// As Hugging Face's tokenizers does it: unknown characters wait, to be fused, until one follows
  /// that is a token. Bytes in the place of a character do not end the wait.
  void add_characters(std::string_view word) {
    bool waiting = false;
    while (!word.empty()) {
      const std::size_t size = std::max<std::size_t>(1, model::first_character(word).size);
      const std::string_view character = word.substr(0, size);
      word.remove_prefix(size);
      const auto found = file_.character_ids.find(std::string(character));
      if (found != file_.character_ids.end()) {
        if (waiting) symbols_.push_back(*file_.unknown);
        waiting = false;
        symbols_.push_back(found->second);
      } else if (!falls_back(character) && file_.unknown) {
        if (waiting && !file_.fuse_unknown) symbols_.push_back(*file_.unknown);
        waiting = true;
      }
    }
    if (waiting) symbols_.push_back(*file_.unknown);
  }

  /// Whether the bytes of a character took its place.
  bool falls_back(std::string_view character) {
    const auto id_of = [&](char byte) { return file_.byte_ids[static_cast<unsigned char>(byte)]; };
    const auto has_id = [&](char byte) { return id_of(byte).has_value(); };
    if (!file_.byte_fallback || !std::ranges::all_of(character, has_id)) return false;
    for (const char byte : character) symbols_.push_back(*id_of(byte));
    return true;
  }

  const model::TokenizerFile& file_;
  bool match_special_;
  bool at_begin_ = true;  // whether what is next stands where the whole text begins
  model::MatchSteps steps_;
  std::vector<TokenId> symbols_;
  model::Merges::Scratch scratch_;
};

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

Tokenizer Tokenizer::from_file(const std::filesystem::path& tokenizer_json) {
  return Tokenizer(std::make_shared<const Parts>(model::read_tokenizer_file(tokenizer_json)));
}

Tokenizer Tokenizer::from_folder(const std::filesystem::path& folder) {
  model::TokenizerFile read = model::read_tokenizer_file(folder / "tokenizer.json");
  const std::filesystem::path config = folder / "tokenizer_config.json";
  std::error_code none;
  if (std::filesystem::exists(config, none)) model::follow_tokenizer_config(config, read);
  return Tokenizer(std::make_shared<const Parts>(std::move(read)));
}

Tokenizer Tokenizer::bytes() {
  model::TokenizerFile made;
  for (int byte = 0; byte < 256; ++byte) {
    made.pieces.emplace_back(1, static_cast<char>(byte));
    made.byte_ids[static_cast<std::size_t>(byte)] = byte;
  }
  made.special.resize(made.pieces.size());
  return Tokenizer(std::make_shared<const Parts>(std::move(made)));
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text,
                                            const EncodeOptions& options) const {
  Encoder encoder(*parts_, options.match_special, text.size());
  if (options.add_special) encoder.ids = parts_->before;
  encoder.text(text);
  if (options.add_special)
    encoder.ids.insert(encoder.ids.end(), parts_->after.begin(), parts_->after.end());
  return std::move(encoder.ids);
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, SpecialTokens special) const {
  std::string text;
  for (const std::int64_t id : ids) {
    if (special == SpecialTokens::skip && is_special(id)) continue;
    text += piece(id);
  }
  if (parts_->strips_space && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::string Tokenizer::piece(std::int64_t id) const {
  if (!parts_->names(id)) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("token id {} names no token; the vocabulary has ids in 0..{}", id,
                            vocab_size() - 1));
  }
  return parts_->pieces[static_cast<std::size_t>(id)];
}

bool Tokenizer::has(std::int64_t id) const noexcept { return parts_->names(id); }

std::int64_t Tokenizer::vocab_size() const noexcept {
  return static_cast<std::int64_t>(parts_->pieces.size());
}

std::optional<std::int64_t> Tokenizer::added_token(std::string_view text) const {
  for (const model::AddedToken& token : parts_->added) {
    if (token.text == text) return token.id;
  }
  return std::nullopt;
}

bool Tokenizer::is_special(std::int64_t id) const noexcept {
  return parts_->names(id) && parts_->special[static_cast<std::size_t>(id)];
}

const std::vector<std::string>& Tokenizer::notices() const noexcept { return parts_->notices; }

std::optional<std::int64_t> Tokenizer::bos() const noexcept {
  return parts_->before.empty() ? std::nullopt : std::optional(parts_->before.front());
}

std::optional<std::int64_t> Tokenizer::eos() const noexcept {
  return parts_->after.empty() ? std::nullopt : std::optional(parts_->after.back());
}

}  // namespace attn
