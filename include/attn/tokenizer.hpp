// Text to token ids and back: the byte-level BPE of GPT-2, Llama 3 and Qwen, as tokenizer.json
// describes it. Link attn::model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace attn {

struct EncodeOptions {
  bool add_special = true;    // what the file's post_processor puts around each text: bos, mostly
  bool match_special = true;  // special tokens spelled out in the text become their ids; false:
                              // they are text like any other
};

enum class SpecialTokens { keep, skip };

/// Immutable: copies share what was read, and any number of threads may use one at once.
///
/// What a tokenizer.json may hold:
///   model           BPE over bytes: vocab, merges ("a b" or ["a", "b"]), ignore_merges, unk_token,
///   fuse_unk added_tokens    special, lstrip, rstrip, single_word, normalized normalizer none,
///   NFC, Sequence of these pre_tokenizer   Sequence of Split (String or Regex, every behavior,
///   invert), Digits and, as the last, ByteLevel post_processor  none, ByteLevel,
///   TemplateProcessing (its form for a single text), Sequence of these decoder         none,
///   ByteLevel: tokens are bytes, whatever is said here
/// Truncation and padding are the caller's. Anything else is refused with Error(unsupported); what
/// contradicts itself, with Error(io). Either is one line that names the file.
///
/// A byte that the vocabulary lacks becomes unk_token, or nothing where the file names none, as
/// SmolLM2's do: so its model was trained.
///
/// Text is bytes. Those that are no UTF-8 pass through: each run of them is a piece by itself, and
/// comes back from decode as it was.
class Tokenizer {
 public:
  static Tokenizer from_file(const std::filesystem::path& tokenizer_json);
  /// Ids 0..255 are the bytes themselves, for toy models.
  static Tokenizer bytes();

  /// Throws Error(io) if one of the file's patterns takes too many steps on the text.
  std::vector<std::int64_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// The tokens' bytes one after another. A character may be spread over several tokens: a part of
  /// them may begin or end within one. Throws Error(invalid_argument) for an id that names no
  /// token.
  std::string decode(std::span<const std::int64_t> ids,
                     SpecialTokens special = SpecialTokens::keep) const;
  /// The bytes of one token. Throws as decode does.
  std::string piece(std::int64_t id) const;
  /// Whether an id names a token: a vocabulary may have gaps, and a model's logits may be more than
  /// there are tokens.
  bool has(std::int64_t id) const noexcept;

  /// One more than the highest id. A model's logits may be more, padded to a round number.
  std::int64_t vocab_size() const noexcept;
  /// The id of an added token, special or not, by its text, such as "<|im_end|>".
  std::optional<std::int64_t> added_token(std::string_view text) const;
  /// False too for ids that name no token.
  bool is_special(std::int64_t id) const noexcept;
  /// The first and the last token that the post_processor puts before and after a text. Few files
  /// name an end: config.json does.
  std::optional<std::int64_t> bos() const noexcept;
  std::optional<std::int64_t> eos() const noexcept;

 private:
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts);

  std::shared_ptr<const Parts> parts_;
};

}  // namespace attn
